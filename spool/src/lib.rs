//! The ledger: lanes of items whose bytes are stable before anybody is told so.
pub mod disk;
pub mod error;
pub mod ids;
pub mod index;
pub mod types;
