//! What scenarios share.

#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod agent;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod dns;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod home;
pub(crate) mod judges;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod line;
pub(crate) mod list_relay;
pub(crate) mod post;
pub(crate) mod process;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod programs;
pub(crate) mod relay;
pub(crate) mod script_relay;
pub(crate) mod signing_relay;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod sink;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod storm;
mod until;

pub(crate) use until::until;
