//! Scenarios.

mod cli;
mod crash;
mod dialogs;
mod edge;
mod fuzz_corpus;
mod gateway;
mod intake_process;
mod layering;
mod lost_replies;
mod outbound;
mod peers;
mod signing;
mod smuggling;
mod support;
mod tunnel;
mod verdicts;
