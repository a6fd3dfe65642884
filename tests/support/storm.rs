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
/// connect does not meet himself.
pub(crate) fn free_port(dice: &mut Dice) -> u16 {
    loop {
        let port = 15_000 + u16::try_from(dice.below(15_000)).expect("small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
