//! What scenarios share.

pub(crate) mod relay;
