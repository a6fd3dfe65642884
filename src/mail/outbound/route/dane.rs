//! PURE: from TLSA records to a demand on TLS (RFC 7672, RFC 6698).

/// One TLSA record as it was found, usable or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector.
    pub selector: u8,
    /// Matching type.
    pub matching: u8,
    /// Certificate association data.
    pub data: Vec<u8>,
}
