//! Rules of this repository that a search can check.
//!
//! `walls` checks what a module must not name, `promises` that docs/PROMISES.md and the tests agree, `pages` that the
//! documentation links to what exists, and `errors` that error types cross threads. They read Rust sources through
//! `sources`, and markdown through `markdown`.

mod errors;
mod markdown;
mod pages;
mod promises;
mod sources;
mod walls;
