//! Scenarios of mail out: the whole relay, scripted mail exchangers, a name server of our own.

mod deliveries;
mod means;
mod outlet;
#[allow(dead_code, reason = "the world stands before what happens in it")]
mod world;
