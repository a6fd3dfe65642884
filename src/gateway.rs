//! The home side: dials out to a relay, takes what its lane holds, and puts it where it belongs.
//!
//! From the wire inwards: [`dial`] opens streams, `carrier` keeps one connection and drives the sans-IO machine in
//! [`client`], which signs only what [`proof`] lets it. Messages come in through [`staging`] files and leave as
//! [`Message`]s of a [`Client`], the library surface. `waystation gateway run` ([`run`]) is one user of it: it gives each
//! message to a [`destination`] and acks what is stored. [`memory`] remembers what was acked.
//!
//! The promise, end to end: a message is acked only when its destination has it and the memory of it is on stable
//! storage; until then the relay keeps it and offers it again.

pub mod audit;
pub mod backoff;
pub mod bootstrap;
pub mod bounces;
mod carrier;
pub mod checked;
pub mod client;
pub mod command;
pub mod config;
pub mod destination;
pub mod dial;
mod handle;
pub mod head;
pub mod keyring;
pub mod lmtp;
pub mod maildir;
pub mod memory;
pub mod outbox;
pub mod proof;
pub mod receipts;
pub mod run;
pub mod sendmail;
pub mod socket;
pub mod staging;
pub mod submission;
pub mod webhook;
pub mod wellknown;

pub use carrier::redeem;
pub use handle::{Client, ClientError, Message, Options, Status};
