//! PURE: what happens to a submitted message before it goes out.
//!
//! * [`bounce`]: the report that comes back when mail did not arrive.
//! * [`canonical`]: the stream filter between the gateway's octets and the spool: CR LF, no `Bcc`, one verdict.
//! * [`dkim`]: the signatures, and their keys.
//! * [`draft`]: what is known of a message that passed: its header, and facts about its body.
//! * [`sender`]: whose addresses it may carry, and where it may go.
//! * [`mod@head`]: the fields we put in front of it.
//! * [`mod@fingerprint`]: what makes two submissions the same mail.
//! * [`refusal`]: why a message does not go out, in words for the gateway's owner.
//!
//! Promise: what is stored is octet for octet what goes on the wire before dot-stuffing, so that nothing is
//! changed after it was checked and signed. A message is taken whole or refused with one reason.
//! Does not: talk to anybody, ask the clock, or stuff dots.

pub mod bounce;
pub mod canonical;
pub mod dkim;
pub mod draft;
pub mod fingerprint;
pub mod head;
pub mod refusal;
pub mod sender;

pub use canonical::Canonical;
pub use draft::Draft;
pub use fingerprint::fingerprint;
pub use head::{Stamp, head};
pub use refusal::Refusal;
pub use sender::{check_sender, recipient};
