//! What storms share: chance that can be repeated, mail that can be made again from its number, senders that retry, a
//! reader of the Maildir, exchangers that fail, the relay as a process, and the rule for mail out.

pub(crate) mod collector;
pub(crate) mod dice;
pub(crate) mod faults;
pub(crate) mod judge;
pub(crate) mod ledger;
pub(crate) mod relay;
pub(crate) mod senders;

use std::net::TcpListener;

use dice::Dice;

/// Ports that the system does not give to those who connect: while nobody listens, nobody else has them, and who tries to
/// connect does not meet himself. Of this process, not of its seed: storms with one seed run side by side.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let mut dice = Dice::new(u64::from(std::process::id()));
    let mut held = Vec::new();
    std::array::from_fn(|_| {
        loop {
            let port = 15_000 + u16::try_from(dice.below(15_000)).expect("small");
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                held.push(listener);
                return port;
            }
        }
    })
}
