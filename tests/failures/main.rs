//! How calls fail: errors, panics, deaths, timeouts and guards, and what their failures show.

mod backtraces;
mod chaos;
mod crash_matrix;
mod dossier;
mod endings;
mod errors;
mod failures;
mod fatal;
mod guards;
#[path = "../harness/mod.rs"]
mod harness;
mod malice;
mod subscribers;
mod timeouts;
mod user_values;
