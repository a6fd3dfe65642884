//! Every input of the fuzzers' corpus, with the ordinary compiler: what was found once is not found again.

#[path = "../fuzz/bodies.rs"]
#[expect(unreachable_pub, reason = "the fuzzers need it public")]
mod bodies;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Inputs of one target; more than a handful, or the corpus was lost.
const INPUTS_MIN: usize = 5;

fn replay(target: &str, body: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&dir).expect("a corpus") {
        let path = entry.expect("an entry").path();
        let data = fs::read(&path).expect("an input");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&data))) {
            let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("{} ({} bytes): {said}", path.display(), data.len());
        }
        count += 1;
    }
    assert!(count >= INPUTS_MIN, "{count} inputs in {}", dir.display());
}

/// One test for each target.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            replay(stringify!($name), bodies::$name);
        }
    )*};
}

targets!(
    smtp_receiver,
    smtp_answer,
    tunnel_frame,
    tunnel_control,
    journal_recovery,
    config,
    attestation,
    proxy_header,
    authentication_results,
);

#[test]
fn every_target_is_replayed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
    let mut targets: Vec<_> = fs::read_dir(dir)
        .expect("targets")
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    targets.sort();
    let this = include_str!("fuzz_corpus.rs");
    for target in targets {
        assert!(this.contains(&format!("    {target},\n")), "{target} is not replayed");
    }
}
