//! Pools as services of tower, with its layers before real workers.

mod answers;
#[path = "../harness/mod.rs"]
mod harness;
mod lanes;
mod layers;
mod readiness;
#[path = "../web/yard.rs"]
#[allow(dead_code, reason = "not every test has handlers that tell something")]
mod yard;
