//! What strangers do to a relay on a public address, done to the real binary on loopback.
//!
//! Goal: nobody gets through who should not, nobody who should is kept waiting by those, and what an attack costs is
//! bounded: memory, descriptors, log lines. Method: the process under attack is one of its own ([`prey`]); many
//! clients are many source addresses of 127.0.0.0/8. Each attack prints what it measured and asserts bounds, not
//! times. Sizes are small enough for two processors; the environment makes them bigger:
//! `WAYSTATION_ATTACK_CONNECTIONS` (10000), `WAYSTATION_ATTACK_SLOW_SENDERS` (200), `WAYSTATION_ATTACK_LARGE_MESSAGES` (12).

mod bombs;
mod crowds;
mod lists;
mod prey;
mod relaying;
mod starttls;
mod stolen_key;
mod websockets;

/// A size from the environment.
fn size(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
