//! What the scenarios share, as far as it is of use here.
#![allow(dead_code, reason = "the scenarios use all of it")]

#[path = "../support/home.rs"]
pub(crate) mod home;
#[path = "../support/post.rs"]
pub(crate) mod post;
#[path = "../support/process.rs"]
pub(crate) mod process;
#[path = "../support/until.rs"]
mod until;

pub(crate) use until::until;
