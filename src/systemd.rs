//! What the service manager that started us wants to hear, and the sockets it opened for us. Made for systemd; whoever
//! speaks its two protocols (sd_notify(3), sd_listen_fds(3)) is as good.
//!
//! Promises: without a manager everything here does nothing; a manager that does not read holds nobody up but the task
//! that tells it. `WATCHDOG=1` is told only while the ledger answers, so that a stuck one is restarted.
//! Failure policy: what cannot be told is lost; a socket that cannot be used is a typed error before anything was served.

mod notify;
mod sockets;

pub use notify::{Life, Manager};
pub use sockets::{ForeignSocket, Listener, SOCKETS_MAX, Socket, sockets};
