//! Scripts in `tests/judges`, run as children: suites, signers and judges that we did not write.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Longest time one script may take.
const PATIENCE_SECONDS: &str = "120";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file that `tests/run` puts below `target/peers`.
pub(crate) fn peer(path: &str) -> Option<String> {
    let path = here("target/peers").join(path);
    path.exists().then(|| path.to_str().expect("text").to_owned())
}

/// Runs a program to its end; `None` when it is not installed or fails, which it says on stderr.
pub(crate) fn run(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new("timeout")
        .args([PATIENCE_SECONDS, program])
        .args(arguments)
        .env("NODE_PATH", here("target/peers/node_modules"))
        .env("PYTHONPATH", here("target/peers/authres"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // A script that stops without reading says why on stderr.
    let _ = child.stdin.take().expect("stdin").write_all(input);
    let output = child.wait_with_output().expect("ends");
    if !output.status.success() {
        eprintln!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(output.stdout)
}

/// A Python that has these modules; says so when there is none.
pub(crate) fn python(modules: &str) -> Option<&'static str> {
    let import = format!("import {modules}");
    let found = ["python3", "/usr/bin/python3"].into_iter().find(|p| run(p, &["-c", &import], b"").is_some());
    if found.is_none() {
        eprintln!("SKIPPED: no Python has the modules {modules}; tests/run installs them");
    }
    found
}

/// A script of ours.
pub(crate) fn script(name: &str) -> String {
    here("tests/judges").join(name).to_str().expect("text").to_owned()
}
