//! The authenticated WebSocket link between a relay and its gateways.
//!
//! * [`frame`], [`control`]: what is said, as values; both ends use them.
//! * [`handshake`]: from the first message to a proof; [`rates`]: how often a stranger may try.
//! * [`signed`]: attestations, receipts and the relay's keys on the wire.
//! * [`session`]: the relay's machine behind the login: window, acks, heartbeat, drain; `farewell`: on which terms.
//! * [`ws`]: the driver on `/ws`; `service`: the traits behind which a service stands.
//!
//! The module carries streams and knows no mail: what a stream means is its service's business.

pub mod control;
mod farewell;
pub mod frame;
mod gather;
pub mod handshake;
mod inflow;
mod outflow;
mod pump;
pub mod rates;
mod service;
pub mod session;
pub mod signed;
mod tally;
mod upgrade;
mod wake;
mod wire;
pub mod ws;

/// Which of the two tunnel protocols a session speaks.
///
/// Tunnel 1 is what unmodified gateways speak. Tunnel 2 is agreed on during authentication, when the
/// gateway offers [`control::Feature::Ack`] and the relay accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Frames of type 1 to 3, no text after authentication.
    One,
    /// Also `smtp_abort`, identities in `smtp_start`, and control messages both ways.
    Two,
}
