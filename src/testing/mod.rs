//! Helpers of this crate's tests: a seeded random number generator, and the targets of the fuzzers.

#[cfg(feature = "actors")]
pub mod fuzz;
#[cfg(test)]
pub(crate) mod seeded_rng;
