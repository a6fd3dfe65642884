//! Many statements under one signature: a tree of hashes, and for each statement the way from it to the root.
//!
//! An Ed25519 signature costs more than all else about an item that is handed over, so a relay signs the root of what goes
//! out together. `leaf = SHA-256(0x00 | domain | payload)`, `node = SHA-256(0x01 | left | right)`; a node without a
//! neighbour goes up as it is. Signed is [`DOMAIN`] followed by the 32 octets of the root, which is no JSON and therefore
//! no other statement.
//!
//! A way is a step for each node above the leaf: one octet that says where the neighbour stands (0: left of us, 1: right),
//! and its hash. Promise: whatever a peer sends, reading a way takes at most [`STEPS_MAX`] hashes.

use sha2::{Digest as _, Sha256};

/// What is signed begins with this.
pub const DOMAIN: &[u8] = b"waystation-batch-1\n";
/// Longest way that is read: more statements than anybody sends together.
pub const STEPS_MAX: usize = 16;
/// Octets of a step.
const STEP_BYTES: usize = 33;

/// The hash of a statement.
#[must_use]
pub fn leaf(domain: &[u8], payload: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(domain).chain_update(payload).finalize().into()
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The octets that are signed for a root.
#[must_use]
pub fn text(root: &[u8; 32]) -> Vec<u8> {
    [DOMAIN, root].concat()
}

/// The root over `leaves` (32 zero octets when there are none), and each one's way to it.
#[must_use]
pub fn tree(leaves: &[[u8; 32]]) -> ([u8; 32], Vec<Vec<u8>>) {
    let steps = (usize::BITS - leaves.len().saturating_sub(1).leading_zeros()) as usize;
    let mut ways: Vec<_> = leaves.iter().map(|_| Vec::with_capacity(steps * STEP_BYTES)).collect();
    let mut level = leaves.to_vec();
    // How many leaves stand below a full node of this level.
    let mut below = 1;
    while level.len() > 1 {
        for (n, way) in ways.iter_mut().enumerate() {
            let place = n / below;
            let (neighbour, side) = if place % 2 == 0 { (place + 1, 1) } else { (place - 1, 0) };
            if let Some(hash) = level.get(neighbour) {
                way.push(side);
                way.extend_from_slice(hash);
            }
        }
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => node(left, right),
                alone => alone.first().copied().unwrap_or_default(),
            })
            .collect();
        below *= 2;
    }
    (level.first().copied().unwrap_or_default(), ways)
}

/// The root that a way leads to; `None` when it is no way.
#[must_use]
pub fn root(leaf: [u8; 32], way: &[u8]) -> Option<[u8; 32]> {
    if !way.len().is_multiple_of(STEP_BYTES) || way.len() / STEP_BYTES > STEPS_MAX {
        return None;
    }
    way.chunks(STEP_BYTES).try_fold(leaf, |hash, step| {
        let (side, neighbour) = step.split_first()?;
        let neighbour = neighbour.try_into().ok()?;
        match side {
            0 => Some(node(neighbour, &hash)),
            1 => Some(node(&hash, neighbour)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_leads_to_the_root_and_no_other_leaf_does() {
        for count in 1..40_usize {
            let leaves: Vec<_> = (0..count).map(|n| leaf(b"d", &n.to_le_bytes())).collect();
            let (top, ways) = tree(&leaves);
            for (n, way) in ways.iter().enumerate() {
                assert_eq!(root(leaves[n], way), Some(top), "{n} of {count}");
                assert_ne!(root(leaf(b"d", b"other"), way), Some(top), "{n} of {count}");
                assert!(way.len() <= 6 * STEP_BYTES);
            }
        }
    }

    #[test]
    fn a_node_is_no_leaf() {
        let (a, b) = (leaf(b"", b"a"), leaf(b"", b"b"));
        let (top, _) = tree(&[a, b]);
        assert_ne!(leaf(b"", &[a, b].concat()), top);
    }

    #[test]
    fn what_is_no_way_leads_nowhere() {
        let start = leaf(b"", b"a");
        assert_eq!(root(start, &[0; 32]), None);
        assert_eq!(root(start, &[2; 33]), None, "neither left nor right");
        assert_eq!(root(start, &vec![0; 33 * (STEPS_MAX + 1)]), None);
        assert_eq!(root(start, &[]), Some(start));
    }

    /// The numbers of `docs/protocol.md`.
    #[test]
    fn the_values_are_those_of_the_document() {
        let leaves =
            [leaf(b"", b"{\"n\":1}"), leaf(b"waystation-custody-1\n", b"{\"n\":2}"), leaf(b"", b"{\"n\":3}")];
        let (top, ways) = tree(&leaves);
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        assert_eq!(hex(&top), "5d8a14c58b50e1dcee4f657e732bec6047aea8b4dbb89da90f302dd66148be44");
        assert_eq!((ways[0].len(), ways[2].len()), (66, 33));
    }
}
