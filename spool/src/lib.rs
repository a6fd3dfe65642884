//! The ledger: lanes of items whose bytes are stable before anybody is told so.
//!
//! What it promises, after [`Spool::commit`] (or an answer of [`engine::Handle`]) said `Ok`:
//!
//! * an accepted item survives `kill -9` and, on a medium that honours `fdatasync`, a power cut;
//! * it is offered to its lane's session, in order, until it is acked, held, purged, or expires;
//! * an acked item is not offered again unless somebody asks for a replay;
//! * a message for several lanes is in all of them or in none.
//!
//! What it does not do: it knows no SMTP, no sockets and no clock. Time and randomness are handed in, the medium
//! is a trait ([`disk::Disk`]), and so is the index ([`index::Index`]), which may be deleted at any time.
//!
//! A tour: [`record`] and `segment` are the bytes, `journal` writes them, `scan` reads them back, `apply` gives
//! them their meaning in the `tail` above the index, `accept`, `lease`, `inspect` and `mailboxes` are the verbs,
//! `upkeep` and `compact` tidy up, [`backup`] copies, `recover` starts it all, [`engine`] runs it on a thread. Bytes and arguments:
//! `DESIGN.md`.

pub mod accept;
mod apply;
pub mod backup;
mod batch;
mod compact;
pub mod disk;
pub mod engine;
pub mod entry;
pub mod error;
mod find;
pub mod ids;
pub mod index;
pub mod inspect;
pub mod invitations;
pub mod journal;
mod lane;
pub mod lease;
pub mod life;
pub mod mailboxes;
mod names;
pub mod newest;
pub mod reader;
pub mod record;
mod recover;
mod scan;
pub mod segment;
pub mod spare;
mod spool;
pub mod submission;
mod tail;
pub mod types;
mod unheard;
pub mod upkeep;

pub use compact::Effort;
pub use inspect::{ReplayFrom, Replayed};
pub use lease::Bell;
pub use newest::Whence;
pub use spool::{OPEN_BODIES_MAX, Options, Recovery, Spool};
pub use tail::CheckpointJob;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
