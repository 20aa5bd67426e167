//! What the tests of this crate share: a seeded generator of random numbers, and the targets of the fuzzers.

#[cfg(feature = "actors")]
pub mod fuzz;
#[cfg(test)]
pub(crate) mod seeded_rng;
