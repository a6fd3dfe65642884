//! Who a gateway is, and the proof of it.
//!
//! A gateway is its Ed25519 key. [`key`] turns keys into text and back, [`keyfile`] keeps the secret one
//! on disk, [`challenge`] asks for a proof of possession, [`registry`] knows which session holds a key now.
//! Nothing here knows sockets, mail or the spool.

pub mod challenge;
pub mod invite;
pub mod key;
pub mod keyfile;
pub mod registry;
