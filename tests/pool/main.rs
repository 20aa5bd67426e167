//! How a pool grows, shrinks, waits and ends.

mod actions;
mod bounded_end;
mod ending;
#[path = "../harness/mod.rs"]
mod harness;
mod idle_deaths;
mod lane_clients;
mod lane_ends;
mod lanes;
mod line;
mod pause;
mod population;
mod ready;
mod release;
mod unreported;
