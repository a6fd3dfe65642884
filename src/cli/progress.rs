//! How far it is: a bar on standard error, for work that takes longer than a second, and only on a terminal.

use std::io::IsTerminal as _;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two pictures of something that tells nothing.
const TICK: Duration = Duration::from_millis(120);
/// Where it is known how much there is to do.
const BYTES: &str = "{msg} {bar:30} {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {eta} to go";
/// Where it is not.
const OPEN: &str = "{spinner} {msg}, {elapsed}";

/// One piece of work.
#[derive(Debug)]
pub(crate) struct Progress {
    name: &'static str,
    bar: ProgressBar,
    started: Instant,
    terminal: bool,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            started: crate::clock::monotonic(),
            terminal: std::io::stderr().is_terminal(),
            shown: false,
        }
    }

    /// `done` of `of` bytes.
    pub(crate) fn show(&mut self, done: u64, of: u64) {
        if self.is_due(BYTES) {
            self.bar.set_message(self.name);
            self.bar.set_length(of);
            self.bar.set_position(done);
        }
    }

    /// So far, when nobody knows how much there is.
    pub(crate) fn count(&mut self, so_far: &str) {
        if self.is_due(OPEN) {
            let between = if so_far.is_empty() { "" } else { ": " };
            self.bar.set_message(format!("{}{between}{so_far}", self.name));
            self.bar.tick();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.bar.finish_and_clear();
    }

    fn is_due(&mut self, template: &str) -> bool {
        if !self.terminal || crate::clock::monotonic().duration_since(self.started) < PATIENCE {
            return false;
        }
        if !self.shown {
            self.shown = true;
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        true
    }
}

/// Does `work`, which tells nothing about how far it is.
pub(crate) fn while_working<T: Send>(name: &'static str, work: impl FnOnce() -> T + Send) -> T {
    let mut bar = Progress::new(name);
    std::thread::scope(|scope| {
        let (ended, wait) = sync_channel::<()>(0);
        let working = scope.spawn(move || {
            let value = work();
            drop(ended);
            value
        });
        while wait.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            bar.count("");
        }
        bar.clear();
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_sound() {
        for template in [BYTES, OPEN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn work_answers_and_its_panic_is_passed_on() {
        assert_eq!(while_working("working", || 7), 7);
        let panicked = std::panic::catch_unwind(|| while_working("working", || panic!("a bug")));
        assert!(panicked.is_err());
    }
}
