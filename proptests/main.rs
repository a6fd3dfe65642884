//! Properties: the ledger beside a model of plain maps, on a disk that crashes as it is told.
//!
//! Few cases by default, so that `tests/run` stays short; `PROPTEST_CASES=20000 cargo test --test properties`
//! looks harder. A failure prints the smallest steps that show it and keeps their seed in `regressions/`.

mod a_copy_is_the_moment_it_was_begun;
mod accepted_items_survive_any_crash;
mod acked_items_are_never_sent_again;
mod canonical_form;
mod codecs;
mod deleting_the_index_changes_nothing;
mod flipped_bytes;
mod r#gen;
mod model;
mod negative_control;
mod replay_from_cursor;
mod same_seed_same_trace;
mod signed_statements;
mod smtp_lines;
mod smtp_sender;
mod smtp_split;
mod starttls;
mod unaccepted_items_are_whole_or_absent;
#[allow(dead_code, unused_imports, reason = "campaign.rs uses the rest")]
mod world;

use proptest::test_runner::{Config, FileFailurePersistence};

/// How many cases: `PROPTEST_CASES`, or `default`.
fn cases(default: u32) -> Config {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    Config {
        cases: wanted.unwrap_or(default),
        max_shrink_iters: 4000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptests/regressions/spool.txt",
        ))),
        ..Config::default()
    }
}
