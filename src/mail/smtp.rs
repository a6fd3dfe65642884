//! SMTP, our side of the conversation: lines, replies, bodies, and the machine that ties them together.
//!
//! * [`command`]: framing of command lines and their grammar.
//! * [`reply`]: what we say, code and enhanced code and text in one value.
//! * [`receiver`]: the session machine.
//! * [`data`], [`bdat`]: the two ways a body arrives; [`content`]: what both demand of it.
//! * [`foreign`]: what is no SMTP at all.
//! * [`sender`]: the client machine; [`stuffing`]: a body on its way out.

pub mod bdat;
pub mod command;
pub mod content;
pub mod data;
pub mod foreign;
pub mod receiver;
pub mod reply;
pub mod sender;
pub mod stuffing;
