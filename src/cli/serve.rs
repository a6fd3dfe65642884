//! `serve`: runs the relay.

use super::{Exit, Global, load};

pub(crate) fn run(global: &Global) -> anyhow::Result<Exit> {
    let _config = load::config(global)?;
    Ok(Exit::Done)
}
