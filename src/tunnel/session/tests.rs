//! The machine in virtual time, by theme; [`world`] is the other end, the lane and the clock.

mod acks;
mod delivery;
mod life;
mod submissions;
mod world;

use std::collections::{BTreeMap, HashMap};

use data_encoding::HEXLOWER;
use serde_json::Value;

use super::*;
use crate::identity::key::SecretKey;
use crate::tunnel::frame::{CHUNK_BYTES_MAX, HEADER_BYTES, STREAM_ID_BYTES_MAX, StartBody};
use world::{Fate, Habit, Lane, TWO, World, credit, proof};
