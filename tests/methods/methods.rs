//! Workers whose calls are methods: what the macros expand to, what they refuse, and what such workers do.

#[path = "../../actors/macros/expansion/mod.rs"]
#[allow(dead_code, reason = "the tests expand some of what the macros do")]
mod expansion;

mod documented;
mod expanded;
mod functions;
mod names;
mod refused;
mod workers;
