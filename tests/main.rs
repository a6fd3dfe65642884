//! Scenarios.

mod dialogs;
mod lost_replies;
mod smuggling;
mod support;
