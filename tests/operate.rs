//! A relay that is changed, watched, started and replaced from outside, as a process of its own: reload, service manager,
//! socket activation, hand-over.

mod daemon;
mod handover;
mod load;
mod notify;
mod reload;
mod sockets;
