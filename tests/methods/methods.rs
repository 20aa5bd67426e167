//! Workers whose calls are methods: what the macros expand to, and what such workers do. What they refuse is in
//! `tests/interface.rs`.

#[path = "../../actors/macros/expansion/mod.rs"]
#[allow(dead_code, reason = "the tests expand some of what the macros do")]
mod expansion;

mod documented;
mod expanded;
mod functions;
mod names;
mod workers;
