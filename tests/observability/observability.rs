//! What monitoring systems see of real pools, and what docs/OBSERVABILITY.md says about it.

mod facade;
#[path = "../harness/mod.rs"]
mod harness;
mod page;
mod recipes;
mod scrape;
mod scrapes;
