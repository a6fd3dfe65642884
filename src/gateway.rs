//! The home side: connects out to a relay and puts the mail where it belongs.

pub mod backoff;
pub mod command;
pub mod destination;
pub mod dial;
pub mod lmtp;
pub mod maildir;
pub mod memory;
pub mod webhook;
