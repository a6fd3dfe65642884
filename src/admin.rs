//! The operator's door: questions about the spool and changes to it, as JSON.
//!
//! Promises: one set of questions ([`ask`]) answered by a running daemon over its admin socket (mode 0600) or,
//! when none runs, from the spool directory opened read-only; changes go through the daemon's spool only.
//! Does not: authenticate; whoever may open the socket is the operator.
//! Failure policy: a typed answer with a status and one sentence; the daemon goes on.

pub mod api;
pub mod ask;
pub mod backup;
pub mod bytes;
pub mod change;
pub mod client;
pub mod control;
pub mod deliveries;
pub mod events;
pub mod explain;
pub mod jobs;
pub mod keys;
pub mod list;
pub mod overview;
pub mod presence;
pub mod request;
pub mod verify;
pub mod words;
