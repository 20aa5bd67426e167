//! A failure in short.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::seconds;
use crate::failure::{Failure, FailureKind};
use crate::wire::frame;

/// Longest text of a failure in a snapshot, in bytes: 32 of them leave room for the workers, also if JSON writes two bytes
/// for each.
const MAX_TEXT: usize = 240;

/// Longest name of a call there, in bytes.
const MAX_NAME: usize = 64;

/// A failure of a call, in short: at most 1 KiB as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FailureSummary {
    /// Its number among the failures of the pool, counted from 1: the next failure has the next number.
    pub number: u64,
    /// When the call was answered with it, serialized as seconds since the beginning of 1970.
    #[serde(serialize_with = "seconds::time")]
    pub at: SystemTime,
    /// Why the call failed.
    pub kind: FailureKind,
    /// The beginning of the name of the call's message, of at most 64 bytes.
    pub call: Option<String>,
    /// The beginning of the failure's line, of at most 240 bytes.
    pub text: String,
    /// The number of the worker, if one was involved.
    pub worker: Option<u64>,
}

impl FailureSummary {
    /// Returns a failure in short that happened so long ago.
    pub(crate) fn of(number: u64, failure: &Failure, ago: Duration) -> Self {
        let now = SystemTime::now();
        FailureSummary {
            number,
            at: now.checked_sub(ago).unwrap_or(now),
            kind: failure.kind(),
            call: failure.call().map(|name| frame::beginning(name, MAX_NAME).to_owned()),
            text: frame::cut(failure.to_string(), MAX_TEXT),
            worker: failure.worker(),
        }
    }
}

impl Default for FailureSummary {
    fn default() -> Self {
        FailureSummary {
            number: 0,
            at: SystemTime::UNIX_EPOCH,
            kind: FailureKind::default(),
            call: None,
            text: String::new(),
            worker: None,
        }
    }
}
