//! Scenarios.

mod dialogs;
mod gateway;
mod layering;
mod lost_replies;
mod peers;
mod smuggling;
mod support;
mod tunnel;
