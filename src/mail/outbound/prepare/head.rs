//! PURE: the fields we put in front of a submission.
//!
//! Promises: the same submission gets the same octets at any time (acceptance time and submission id are all that
//! goes in), so that every attempt and every restart sends one and the same message; nothing in them says where
//! the gateway is. Only a submission of our own gateway gets a missing `Date` and `Message-ID`, because to anybody
//! else's mail we add trace alone (T6, L9).

use spool::ids::{ItemId, WallMs};

use super::draft::Draft;
use crate::mail::trace::{Submitted, date};

/// What the fields are made of.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Our name.
    pub hostname: &'a str,
    /// The submission.
    pub id: ItemId,
    /// When it was accepted.
    pub at: WallMs,
    /// It comes from our own gateway, as a program wrote it: a missing `Date` or `Message-ID` is added.
    pub complete: bool,
}

/// `Received`, then `Date` and `Message-ID` where they are missing and ours to add; each with its CR LF.
#[must_use]
pub fn head(stamp: Stamp<'_>, draft: &Draft) -> Vec<u8> {
    let Stamp { hostname, id, at, complete } = stamp;
    let mut head = Submitted { hostname, id, at }.field();
    if complete && draft.count("Date") == 0 {
        head.extend_from_slice(format!("Date: {}\r\n", date(at)).as_bytes());
    }
    if complete && draft.count("Message-ID") == 0 {
        head.extend_from_slice(format!("Message-ID: <{id}@{hostname}>\r\n").as_bytes());
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::outbound::prepare::Canonical;

    fn headed(message: &str, complete: bool) -> String {
        let (mut filter, mut out) = (Canonical::new(1 << 20, "mx"), Vec::new());
        filter.feed(message.as_bytes(), &mut out).unwrap();
        let draft = filter.finish(&mut out).unwrap();
        let stamp = Stamp {
            hostname: "mx.our.example",
            id: ItemId([7; 16]),
            at: WallMs(1_790_000_000_123),
            complete,
        };
        String::from_utf8(head(stamp, &draft)).unwrap()
    }

    #[test]
    fn missing_fields_are_added_for_our_own_gateway_only() {
        let id = ItemId([7; 16]);
        let trace = format!(
            "Received: by mx.our.example with TUNNEL id {id};\r\n\tMon, 21 Sep 2026 14:13:20 +0000\r\n"
        );
        assert_eq!(headed("From: a@x\n\n", false), trace); // L9
        assert_eq!(headed("date: x\nmessage-id: y\n\n", true), trace);
        let added = "Date: Mon, 21 Sep 2026 14:13:20 +0000\r\n";
        assert_eq!(headed("Message-ID: <a@b>\n\n", true), format!("{trace}{added}")); // T6
        assert_eq!(
            headed("From: a@x\n\n", true),
            format!("{trace}{added}Message-ID: <{id}@mx.our.example>\r\n")
        );
    }
}
