//! Waystation: a durable relay for machines that are not always reachable.
pub mod acme;
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crashpoint;
pub mod daemon;
pub mod gateway;
pub mod http;
pub mod identity;
pub mod mail;
pub mod observe;
pub mod proxy;
pub mod secrets;
pub mod spooler;
pub mod tls;
pub mod tunnel;
