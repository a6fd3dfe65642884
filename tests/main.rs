//! Scenarios.

mod dialogs;
mod layering;
mod lost_replies;
mod peers;
mod smuggling;
mod support;
mod tunnel;
