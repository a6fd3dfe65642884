//! Scenarios of mail out: the whole relay, scripted mail exchangers, a name server of our own.

mod bad_input;
mod deliveries;
mod flush;
mod means;
mod outlet;
mod queue;
mod receivers;
mod results;
mod storm;
mod unmodified;
mod world;
