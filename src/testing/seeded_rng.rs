//! Random numbers that are the same for the same seed, so that a test can be repeated step by step.

/// A SplitMix64 generator: small, fast, and good enough for choosing test steps.
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

    /// Returns a number below `limit`, which must not be 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Returns `true` with a probability of `per_mille` / 1000.
    pub(crate) fn happens(&mut self, per_mille: usize) -> bool {
        self.below(1000) < per_mille
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Returns the seeds that a test runs: those of `FORKPOOL_SEED` or `FORKPOOL_SEEDS` (`start..end`), or else `default`.
pub(crate) fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
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
        Err(_) => default,
    }
}
