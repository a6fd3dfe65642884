//! What stands in front of the relay: proxies, the admin API over HTTP, secret files, ACME.

mod acme;
mod admin;
mod combined;
mod proxy;
mod secrets;
