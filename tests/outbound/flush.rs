//! The flush that fails (Q15): when the armed record does not become stable, no octet leaves that could complete the
//! message.
//!
//! Method: a library put before the system's makes every sync of the relay's process fail from a chosen moment on; the
//! rest is real. It is compiled here; without a C compiler the test is skipped, with a line that says so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::world::{World, address, key, message};
use crate::support::line::{Log, Manner};
use crate::support::programs::program;
use crate::support::sink::{Act, Script, Step};
use crate::support::until;

/// Fails each sync with EIO while the file named by `FAIL_SYNC_WHILE` exists.
const LIBRARY: &str = "
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) {
    const char *flag = getenv(\"FAIL_SYNC_WHILE\");
    return flag && access(flag, F_OK) == 0;
}
#define WRAP(name) \\
    int name(int fd) { \\
        static int (*real)(int); \\
        if (!real) real = dlsym(RTLD_NEXT, #name); \\
        if (fails()) { errno = EIO; return -1; } \\
        return real(fd); \\
    }
WRAP(fsync)
WRAP(fdatasync)
";

fn library(directory: &Path) -> Option<PathBuf> {
    let compiler = program("cc")?;
    let (source, library) = (directory.join("fail.c"), directory.join("fail.so"));
    std::fs::write(&source, LIBRARY).expect("written");
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(command.status().expect("cc runs").success());
    Some(library)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_armed_record_is_not_stable_the_message_does_not_leave() {
    const TO: &str = "u@far.test";
    let world = World::new().await;
    world.dns.mail_domain("far.test", "127.0.0.2");
    let Some(library) = library(world.path()) else { return };
    let flag = world.path().join("fail-now");
    // The disk breaks when DATA was heard: after the acceptance, before the last octet.
    let now = flag.clone();
    world.sink.play(Script::usual().judge(move |moment| {
        if moment.step == Step::Data {
            std::fs::write(&now, b"").expect("written");
        }
        None::<Act>
    }));
    let env = [("LD_PRELOAD", library.as_path()), ("FAIL_SYNC_WHILE", flag.as_path())];
    let mut relay = world.start_with(&env).await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let line = relay.line(&key, Manner::Two, &log).await;
    line.submit("s1", &from, TO, &message(&from, TO, "s1"));
    // A spool that failed to flush answers nothing more: the process ends, and the next start recovers.
    until("the relay gives up", || relay.has_ended()).await;
    assert!(flag.exists(), "the exchanger was reached");
    assert_eq!(log.status("s1"), None);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.sink.received_count(), 0, "the message left without its record");
    // On a disk that works again there is one result, and it is true.
    std::fs::remove_file(&flag).expect("removed");
    world.sink.play(Script::usual());
    let relay = world.start().await;
    let line = relay.line(&key, Manner::Two, &log).await;
    if log.accepted("s1").is_empty() {
        line.submit("s1", &from, TO, &message(&from, TO, "s1"));
    }
    until("the result is told", || log.status("s1").is_some()).await;
    match &*log.status("s1").expect("told") {
        "sent" => assert_eq!(world.sink.copies("s1", TO), 1),
        // The record may have reached the disk although nobody could be told so.
        "indeterminate" => assert_eq!(world.sink.copies("s1", TO), 0),
        other => panic!("{other}"),
    }
}
