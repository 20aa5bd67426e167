//! Chance that comes out the same for the same seed, for tests that must be repeatable to the last step.

/// Numbers by SplitMix64: small, fast, and good enough to pick what happens next.
pub(crate) struct SeededRng(u64);

impl SeededRng {
    pub(crate) fn new(seed: u64) -> Self {
        SeededRng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `most`, which is not 0.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    /// Whether something happens that happens so many times in a thousand.
    pub(crate) fn happens(&mut self, in_a_thousand: usize) -> bool {
        self.below(1000) < in_a_thousand
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// The seeds a test runs: what `FORKPOOL_SEED` or `FORKPOOL_SEEDS` (`start..end`) says, or `usual`.
pub(crate) fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let number = |text: &str| text.trim().parse::<u64>().expect("a seed is a number");
    if let Ok(seed) = std::env::var("FORKPOOL_SEED") {
        let seed = number(&seed);
        return seed..seed + 1;
    }
    match std::env::var("FORKPOOL_SEEDS") {
        Ok(range) => {
            let (start, end) = range.split_once("..").expect("FORKPOOL_SEEDS is start..end");
            number(start)..number(end)
        }
        Err(_) => usual,
    }
}
