//! What the library itself prints and logs in a server or a worker. Telling never waits, never fails and never panics.
//!
//! Standard error may be a full pipe, a closed one, or a file on a full disk, and a subscriber may panic. None of that
//! may stop a server or a worker. So an event is dropped and counted where its writer would have to wait, and the count
//! is told once there is room again. A subscriber that panics loses its event.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::descriptors;
use crate::user_code::caught;

/// Log events that were dropped, or lost by a panic of the subscriber, and not reported yet.
static LOST_EVENTS: AtomicU64 = AtomicU64::new(0);

/// Printed lines that were dropped and not reported yet.
static LOST_LINES: AtomicU64 = AtomicU64::new(0);

/// Logs an event of the server: `log_event!(info, worker = 7, "a worker was forked")`. All events of the server have
/// the same target.
macro_rules! log_event {
    ($level:ident, $($event:tt)+) => {
        $crate::telling::log(|| tracing::$level!(target: "forkpool::server", $($event)+))
    };
}
pub(crate) use log_event;

/// Emits an event, unless its writer would have to wait for standard output or standard error.
pub(crate) fn log(event: impl FnOnce()) {
    if !has_room() {
        LOST_EVENTS.fetch_add(1, Ordering::Relaxed);
        return;
    }
    catch_up();
    if caught(event).is_none() {
        LOST_EVENTS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reports how many events were dropped, once there is room.
pub(crate) fn catch_up() {
    if LOST_EVENTS.load(Ordering::Relaxed) == 0 || !has_room() {
        return;
    }
    let count = LOST_EVENTS.swap(0, Ordering::Relaxed);
    let event = || {
        tracing::warn!(target: "forkpool::server", count,
            "log events were dropped: standard output or standard error was full, or the subscriber panicked");
    };
    if caught(event).is_none() {
        LOST_EVENTS.fetch_add(count, Ordering::Relaxed);
    }
}

/// Prints one line on standard error, after `forkpool: `. A line that cannot be written at once is dropped and counted.
pub(crate) fn print_line(line: fmt::Arguments<'_>) {
    let lost = LOST_LINES.swap(0, Ordering::Relaxed);
    let mut text = String::new();
    if lost > 0 {
        text = format!("forkpool: {lost} earlier lines were dropped, because standard error was full\n");
    }
    text.push_str(&format!("forkpool: {line}\n"));
    if !descriptors::write_without_waiting(std::io::stderr().as_fd(), text.as_bytes()) {
        LOST_LINES.fetch_add(lost + 1, Ordering::Relaxed);
    }
}

/// Prints a warning that every worker of a client would print: the first one does, then the tenth, the hundredth and so
/// on, with that number. `number` counts the client's workers from 1.
pub(crate) fn print_repeated(number: u64, line: fmt::Arguments<'_>) {
    match number {
        1 => print_line(line),
        count if is_power_of_ten(count) => print_line(format_args!("{line} ({count} workers so far)")),
        _ => {}
    }
}

fn is_power_of_ten(count: u64) -> bool {
    count > 0 && 10_u64.checked_pow(count.ilog10()) == Some(count)
}

fn has_room() -> bool {
    descriptors::has_room([std::io::stdout().as_fd(), std::io::stderr().as_fd()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G7
    #[test]
    fn a_warning_is_repeated_at_powers_of_ten() {
        let printed: Vec<u64> = (0..=2000).filter(|&count| is_power_of_ten(count)).collect();
        assert_eq!(printed, [1, 10, 100, 1000]);
    }
}
