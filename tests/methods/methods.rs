//! Workers whose calls are methods.

mod workers;
