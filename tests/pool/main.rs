//! How a pool grows, shrinks, waits and ends.

mod actions;
mod bounded_end;
mod bulkheads;
mod console;
mod console_ends;
mod ending;
mod failed_set_ups;
#[path = "../harness/mod.rs"]
mod harness;
mod holders;
mod idle_deaths;
mod lane_clients;
mod lane_ends;
mod lane_reentry;
mod lanes;
mod line;
mod own_policies;
mod pause;
mod population;
mod ready;
mod release;
mod snapshot;
mod unreported;
