//! Mail, the first service: SMTP in front, the spool behind.
//!
//! * [`address`], [`envelope`], [`trace`], [`verdict`]: pure values and their text forms.
//! * [`signed`], [`attestation`], [`custody`], [`relay_keys`]: what a relay signs, and who believes it.
//! * [`blocklist`]: what DNS block lists are asked, and what their answers mean.
//! * [`smtp`]: codecs and the session machine of our SMTP server, without sockets or clock.
//! * [`limits`]: what one corner of the network may ask.
//! * [`intake`]: the driver: sockets on one side, the spool on the other.
//! * [`admission`]: who gets a lane.
//! * [`lane`]: the driver between a gateway's lane and the tunnel.
//! * [`signer`]: the relay's keys, and what it signs with them.
//! * [`outbound`]: what gateways send out, up to its one result.
//!
//! Promise: a message that was answered `250` is on stable storage; one that was not leaves no trace in
//! any lane. Whatever strangers send is bounded in memory and answered with a complete reply.

pub mod address;
pub mod admission;
pub mod attestation;
pub mod blocklist;
pub mod custody;
pub mod envelope;
pub mod intake;
pub mod lane;
pub mod limits;
pub mod outbound;
pub mod relay_keys;
pub mod signed;
pub mod signer;
pub mod smtp;
pub mod trace;
pub mod verdict;
