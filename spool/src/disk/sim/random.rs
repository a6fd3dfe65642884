//! The dice of the simulated disk.

/// A small random generator (splitmix64): pure, the same everywhere, good enough to choose crashes.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "an endless sequence, not an iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}

/// How a power cut chooses among what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chance {
    /// All of it is lost.
    Nothing,
    /// All of it was stored just in time.
    All,
    /// What came first was stored.
    Prefix,
    /// Each piece was stored or not, whatever its age.
    Each,
}

impl Chance {
    pub(super) fn draw(random: &mut SplitMix64) -> Self {
        match random.below(8) {
            0 => Self::Nothing,
            1 => Self::All,
            2..=4 => Self::Prefix,
            _ => Self::Each,
        }
    }
}
