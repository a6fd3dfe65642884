//! The command destination: a program that reads the message on stdin, as `procmail`, `fdm` or a script does.
//!
//! The program is started directly, without a shell. `{mail_from}`, `{rcpt_to}`, `{item_id}` and `{size_bytes}` in
//! its arguments are replaced. Values come from strangers: a value never becomes a second argument, and a message
//! whose value would turn an argument into an option (begin with `-` where the template does not) is refused,
//! as Postfix does. The environment gains `WAYSTATION_MAIL_FROM`, `WAYSTATION_RCPT_TO`, `WAYSTATION_ITEM_ID`,
//! `WAYSTATION_SEQ` and `WAYSTATION_SIZE_BYTES`, which need no such care. The null sender is an empty value.
//!
//! Exit status follows `sysexits.h` and Postfix's `pipe(8)`:
//!
//! | end | outcome |
//! |---|---|
//! | 0 | stored |
//! | 75 (`EX_TEMPFAIL`), killed by a signal, not done in time | later |
//! | 126, 127 (not found, not executable), cannot be started | unavailable |
//! | anything else | refused at once; the relay holds the message with the last line of stderr as the reason |
//!
//! stdout is thrown away. A program that does not end in time is killed; programs it started are not.

use std::ffi::OsString;
use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::gateway::destination::{Letter, Outcome, REASON_BYTES_MAX};

/// `EX_TEMPFAIL` of `sysexits.h`.
const EX_TEMPFAIL: i32 = 75;
/// What a shell says for "not executable" and "not found".
const EX_NOT_STARTED: [i32; 2] = [126, 127];
/// How long to wait for the rest of stderr after the program has ended (a child of it may hold it open).
const STDERR_GRACE: Duration = Duration::from_millis(200);

/// A command line that takes messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    argv: Vec<String>,
    timeout: Duration,
}

impl Command {
    /// `argv`: program and arguments, with placeholders in the arguments. `timeout`: how long one message may take.
    ///
    /// Returns `None` for an empty `argv` or an empty program name.
    #[must_use]
    pub fn new(argv: Vec<String>, timeout: Duration) -> Option<Self> {
        argv.first().is_some_and(|program| !program.is_empty()).then_some(Self { argv, timeout })
    }

    /// Runs the program once; see the module's table.
    pub async fn deliver(&self, letter: &Letter) -> Outcome {
        let Some((program, templates)) = self.argv.split_first() else {
            return Outcome::unavailable("no command configured");
        };
        let mut arguments = Vec::with_capacity(templates.len());
        for template in templates {
            let argument = expand(template, letter);
            if argument.starts_with('-') && !template.starts_with('-') {
                return Outcome::refused("an address would be taken for an option of the command");
            }
            if argument.contains('\0') {
                return Outcome::refused("an address contains a zero byte");
            }
            arguments.push(OsString::from(argument));
        }
        let stdin = match File::open(&letter.path) {
            Ok(file) => file,
            Err(error) => return Outcome::later(format!("cannot read the received message: {error}")),
        };
        let child = tokio::process::Command::new(program)
            .args(arguments)
            .env("WAYSTATION_MAIL_FROM", env_value(&letter.mail_from))
            .env("WAYSTATION_RCPT_TO", env_value(&letter.rcpt_to))
            .env("WAYSTATION_ITEM_ID", env_value(&letter.item_id))
            .env("WAYSTATION_SEQ", letter.seq.to_string())
            .env("WAYSTATION_SIZE_BYTES", letter.size_bytes.to_string())
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return Outcome::unavailable(format!("cannot start {program}: {error}")),
        };
        let mut tail = Tail::default();
        let stderr = child.stderr.take();
        let run = async {
            let reading = async {
                if let Some(stderr) = stderr {
                    tail.follow(stderr).await;
                }
            };
            tokio::pin!(reading);
            let mut read_out = false;
            loop {
                tokio::select! {
                    status = child.wait() => {
                        if !read_out {
                            let _ = tokio::time::timeout(STDERR_GRACE, &mut reading).await;
                        }
                        break status;
                    }
                    () = &mut reading, if !read_out => read_out = true,
                }
            }
        };
        let status = tokio::time::timeout(self.timeout, run).await;
        match status {
            Err(_) => {
                let _ = child.kill().await;
                Outcome::later(format!("{program} did not end within {} s", self.timeout.as_secs()))
            }
            Ok(Err(error)) => Outcome::later(format!("cannot wait for {program}: {error}")),
            Ok(Ok(status)) => judge(program, status, &tail.text()),
        }
    }
}

fn judge(program: &str, status: ExitStatus, said: &str) -> Outcome {
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    match status.code() {
        Some(0) => Outcome::Stored,
        Some(EX_TEMPFAIL) => Outcome::later(format!("{program} asks to try later{said}")),
        Some(code) if EX_NOT_STARTED.contains(&code) => {
            Outcome::unavailable(format!("{program} exited with {code}{said}"))
        }
        Some(code) => Outcome::refused(format!("{program} exited with {code}{said}")),
        None => Outcome::later(format!("{program} ended by a signal ({status}){said}")),
    }
}

/// One argument with its placeholders replaced; a value is never searched for placeholders again.
fn expand(template: &str, letter: &Letter) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let size = letter.size_bytes.to_string();
        let known = [
            ("{mail_from}", letter.mail_from.as_str()),
            ("{rcpt_to}", letter.rcpt_to.as_str()),
            ("{item_id}", letter.item_id.as_str()),
            ("{size_bytes}", size.as_str()),
        ];
        match known.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// A value for the environment, which cannot hold zero bytes.
fn env_value(text: &str) -> String {
    text.replace('\0', "")
}

/// The last bytes of a stream, bounded.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    async fn follow(&mut self, mut stream: impl AsyncRead + Unpin) {
        let mut piece = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut piece).await {
            self.bytes.extend_from_slice(&piece[..n]);
            let surplus = self.bytes.len().saturating_sub(REASON_BYTES_MAX);
            self.bytes.drain(..surplus);
        }
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(dir: &tempfile::TempDir) -> Letter {
        Letter {
            mail_from: "a@example.org".to_owned(),
            rcpt_to: "{mail_from}@example.org".to_owned(),
            ..Letter::sample(dir.path().join("message"), b"Subject: x\r\n\r\nhello\r\n")
        }
    }

    async fn run(script: &str) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        Command::new(argv, Duration::from_secs(20)).unwrap().deliver(&letter(&dir)).await
    }

    #[tokio::test]
    async fn message_is_on_stdin_and_envelope_in_the_environment() {
        let outcome = run("test \"$(cat | wc -c)\" -eq 21 || exit 1; \
             test \"$WAYSTATION_MAIL_FROM $WAYSTATION_SEQ\" = 'a@example.org 3' || exit 2; exit 0");
        assert_eq!(outcome.await, Outcome::Stored);
    }

    #[tokio::test]
    async fn a_command_that_does_not_read_its_input_may_still_say_yes() {
        assert_eq!(run("exit 0").await, Outcome::Stored);
    }

    #[tokio::test]
    async fn exit_codes_follow_sysexits() {
        assert!(matches!(run("exit 75").await, Outcome::Later { .. }));
        assert!(matches!(run("kill -9 $$").await, Outcome::Later { .. }));
        assert!(matches!(run("exit 127").await, Outcome::Unavailable { .. }));
        let Outcome::Refused { reason } = run("echo first >&2; echo 'no such user' >&2; exit 67").await
        else {
            panic!("not refused");
        };
        assert_eq!(reason, "/bin/sh exited with 67: no such user");
    }

    #[tokio::test]
    async fn a_missing_program_makes_it_unavailable() {
        let dir = tempfile::tempdir().unwrap();
        let command = Command::new(vec!["/no/such/program".to_owned()], Duration::from_secs(5)).unwrap();
        assert!(matches!(command.deliver(&letter(&dir)).await, Outcome::Unavailable { .. }));
        assert_eq!(Command::new(vec![], Duration::from_secs(5)), None);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let argv = ["/bin/sh", "-c", "exec sleep 1000"].map(str::to_owned).to_vec();
        let command = Command::new(argv, Duration::from_millis(50)).unwrap();
        assert!(matches!(command.deliver(&letter(&dir)).await, Outcome::Later { .. }));
    }

    #[test]
    fn values_are_not_expanded_again() {
        let dir = tempfile::tempdir().unwrap();
        let letter = letter(&dir);
        assert_eq!(expand("-f{mail_from} {x} {", &letter), "-fa@example.org {x} {");
        assert_eq!(expand("{rcpt_to}", &letter), "{mail_from}@example.org");
        assert_eq!(expand("{size_bytes}{item_id}", &letter), "21abc");
    }

    #[tokio::test]
    async fn an_address_cannot_become_an_option() {
        let dir = tempfile::tempdir().unwrap();
        let mut letter = letter(&dir);
        letter.mail_from = "-oQ/tmp@example.org".to_owned();
        let with = |argument: &str| {
            Command::new(vec!["/bin/true".to_owned(), argument.to_owned()], Duration::from_secs(5)).unwrap()
        };
        assert!(matches!(with("{mail_from}").deliver(&letter).await, Outcome::Refused { .. }));
        assert_eq!(with("-f{mail_from}").deliver(&letter).await, Outcome::Stored);
    }
}
