//! Times as numbers of seconds: what a page and a metric show.

use std::time::{Duration, SystemTime};

use serde::Serializer;

pub(super) fn of(duration: Duration) -> f64 {
    // A fraction of microseconds is shorter as a text than one of nanoseconds.
    duration.as_micros() as f64 / 1e6
}

pub(super) fn duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(of(*duration))
}

pub(super) fn optional<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_some(&of(*duration)),
        None => serializer.serialize_none(),
    }
}

/// To the millisecond, for what there is one of for each worker.
pub(super) fn rough<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_millis() as f64 / 1e3)
}

pub(super) fn optional_rough<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_some(&(duration.as_millis() as f64 / 1e3)),
        None => serializer.serialize_none(),
    }
}

/// Seconds since the beginning of 1970.
pub(super) fn time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    duration(&time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), serializer)
}
