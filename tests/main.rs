//! Scenarios.

mod dialogs;
mod lost_replies;
mod peers;
mod smuggling;
mod support;
mod tunnel;
