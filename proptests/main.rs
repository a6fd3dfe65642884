//! Properties.

mod smtp_split;
