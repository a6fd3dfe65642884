//! Named places where a test may kill this process.
//!
//! `WAYSTATION_CRASH_AT=name:count` ends the process the `count`-th time it reaches the point `name`
//! (several, separated by commas, are allowed). The end is an abort: no destructor runs, nothing is flushed,
//! exactly what `kill -9` leaves behind. Points exist in builds with debug assertions only; in a release build
//! [`reach`] is an empty function, and the environment variable means nothing.
//!
//! A point is put right before and right after each step whose order carries a promise, so that a test can
//! stand in every gap between two of them.

/// Ends the process here if the environment asks for it. Does nothing in release builds.
#[cfg(debug_assertions)]
pub fn reach(name: &'static str) {
    use std::sync::{Mutex, OnceLock};

    static PLAN: OnceLock<Mutex<Vec<(String, u64)>>> = OnceLock::new();
    let plan =
        PLAN.get_or_init(|| Mutex::new(parse(&std::env::var("WAYSTATION_CRASH_AT").unwrap_or_default())));
    let Ok(mut plan) = plan.lock() else { return };
    if let Some((_, left)) = plan.iter_mut().find(|(point, _)| point == name) {
        *left = left.saturating_sub(1);
        if *left == 0 {
            eprintln!("crash point {name} reached");
            std::process::abort();
        }
    }
}

/// Ends the process here if the environment asks for it. Does nothing in release builds.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_name: &'static str) {}

/// `a:2,b` becomes `[(a, 2), (b, 1)]`; what cannot be read is left out.
#[cfg(debug_assertions)]
fn parse(text: &str) -> Vec<(String, u64)> {
    text.split(',')
        .filter_map(|one| {
            let (name, count) = one.trim().split_once(':').unwrap_or((one.trim(), "1"));
            Some((name.to_owned(), count.parse().ok().filter(|count| *count > 0)?))
        })
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn plan_text_names_points_and_counts() {
        assert_eq!(parse("a:2, b"), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(parse(""), []);
        assert_eq!(parse("a:x,b:0"), []);
    }
}
