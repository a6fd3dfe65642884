//! Wiring: the one module that knows every service. It decides nothing.

pub mod ledger;
