//! Mail out: what gateways submit, on its way to the recipient's server.
//!
//! * [`intake`]: from a gateway's streams to submissions, and their results back to it.
//! * [`prepare`]: what happens to a submitted message before it goes out.
//! * [`connection`]: one connection to a next hop, and what became of each message over it.
//! * [`values`]: what the parts say to each other.
//! * [`route`]: which hosts take mail for a domain, in which order, and what TLS must be like there.
//! * [`submission`]: the machine of one attempt; [`schedule`]: whose turn it is.
//! * [`delivery`]: the loop around all of them; [`ledger`]: what it asks of the spool.
//!
//! Promise: a submission ends in exactly one result, and at most one copy of it is ever handed over by us.

pub mod connection;
pub mod delivery;
pub mod intake;
pub mod ledger;
pub mod prepare;
pub mod route;
pub mod schedule;
pub mod submission;
pub mod values;
