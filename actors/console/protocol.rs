//! What a viewer asks, and the line that answers it.
//!
//! Both are JSON, one object on each line. A viewer asks when it wants to know something, so an application that is not
//! watched does nothing.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::actors::api::snapshot::{FailureSummary, Snapshot};
use crate::actors::scheduler::Scheduler;
use crate::wire::LIBRARY;

/// The number of this protocol, which a change raises that older viewers do not understand.
const CONSOLE: u32 = 1;

/// Longest line of a viewer, in bytes, with its end. A longer one ends the connection.
pub(super) const MAX_LINE: usize = 4 << 10;

/// What a viewer asks.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub(super) enum Ask {
    /// The snapshots of all pools.
    Snapshot,
    /// The failures with a higher number than `since`, of the last ones that each pool keeps.
    Failures {
        #[serde(default)]
        since: u64,
    },
}

/// What an answer begins with.
#[derive(Serialize)]
struct Answer<T> {
    answer: &'static str,
    console: u32,
    version: &'static str,
    pid: u32,
    /// Seconds since the beginning of 1970.
    at: f64,
    pools: Vec<T>,
}

#[derive(Serialize)]
struct Failures {
    pool: String,
    failures: Vec<FailureSummary>,
}

#[derive(Serialize)]
struct Refusal<'a> {
    answer: &'static str,
    console: u32,
    error: &'a str,
}

/// Returns the answer to a line of a viewer, with its end.
pub(super) fn answer(line: &[u8], pools: &[Arc<Scheduler>]) -> Vec<u8> {
    match serde_json::from_slice(line) {
        Ok(Ask::Snapshot) => {
            let snapshots: Vec<Snapshot> = pools.iter().map(|pool| pool.snapshot()).collect();
            answer_with("snapshot", snapshots)
        }
        Ok(Ask::Failures { since }) => {
            let failures = pools.iter().map(|pool| {
                let mut failures = pool.tallies.last_failures();
                failures.retain(|failure| failure.number > since);
                Failures { pool: pool.options.name.clone(), failures }
            });
            answer_with("failures", failures.collect())
        }
        Err(error) => refusal(&format!(
            "this line asks nothing that is known: {error}; ask {{\"ask\":\"snapshot\"}} or {{\"ask\":\"failures\",\"since\":0}}"
        )),
    }
}

fn answer_with<T: Serialize>(answer: &'static str, pools: Vec<T>) -> Vec<u8> {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    line(&Answer {
        answer,
        console: CONSOLE,
        version: LIBRARY,
        pid: std::process::id(),
        at: at as f64 / 1e3,
        pools,
    })
}

/// Returns the line that says why a viewer gets no other answer.
pub(super) fn refusal(error: &str) -> Vec<u8> {
    line(&Refusal { answer: "error", console: CONSOLE, error })
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain data without maps always has a form as JSON.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// M2
    #[test]
    fn what_is_asked_is_understood_and_all_else_is_refused_with_what_may_be_asked() {
        let asked = |line: &str| serde_json::from_str::<Ask>(line).ok();
        assert_eq!(asked(r#"{"ask":"snapshot"}"#), Some(Ask::Snapshot));
        assert_eq!(asked(r#"{"ask":"failures","since":7}"#), Some(Ask::Failures { since: 7 }));
        assert_eq!(asked(r#"{"ask":"failures"}"#), Some(Ask::Failures { since: 0 }));
        assert_eq!(asked(r#"{"ask":"snapshot","of":"a newer viewer"}"#), Some(Ask::Snapshot));
        for line in ["", "{}", "[]", "snapshot", r#"{"ask":"kill"}"#, r#"{"ask":"failures","since":-1}"#] {
            let answer = String::from_utf8(answer(line.as_bytes(), &[])).unwrap_or_default();
            assert!(
                answer.ends_with('\n') && answer.contains(r#"\"ask\":\"snapshot\""#),
                "{line:?}: {answer}"
            );
            assert!(answer.contains(r#""answer":"error""#), "{line:?}: {answer}");
        }
        assert_eq!(asked("{\"ask\":\"snapshot\"} {}"), None, "one object in each line");
    }
}
