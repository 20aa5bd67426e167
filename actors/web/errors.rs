//! Failures as responses.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use tracing::Span;

use super::response_error::__private::{json_text, plain_text};
use crate::actors::telemetry::teller;
use crate::failure::{Failure, FailureKind};
use crate::user_code::caught;

/// How long a client is asked to wait where nothing is known (1 s).
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// The most by which a wait is made longer, so that clients that failed together do not come back together.
const JITTER: f64 = 0.2;

/// The body of a response with the status 413.
const TOO_LARGE: &str = "the request is too large";

/// A handler that returns `Result<_, Failure>` needs one `?`; the response is that of
/// [`web::response`](crate::web::response).
///
/// ```no_run
/// # use actix::prelude::*;
/// # use forkpool::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Message, Serialize, Deserialize)]
/// # #[rtype(result = "Result<String, Failure>")]
/// # struct Hash { plaintext: String }
/// use actix_web::web;
///
/// async fn hash<W: Worker + forkpool::Accepts<Hash>>(
///     pool: web::Data<PoolHandle<W>>,
///     body: web::Json<Hash>,
/// ) -> Result<String, Failure> {
///     pool.send(body.into_inner()).await
/// }
/// ```
impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        status(self)
    }

    fn error_response(&self) -> HttpResponse {
        response(self)
    }
}

/// Returns the status that fits a failure.
///
/// | status | kinds of failures |
/// |---|---|
/// | 413 Payload Too Large | `Payload`, if the message exceeds `max_payload` on its way to a worker |
/// | 500 Internal Server Error | `Died`, `Panic`, `Protocol`, `Task`, `Elsewhere`, `Other`, and every other `Payload` |
/// | 503 Service Unavailable | `Overloaded`, `Quarantined`, `Stopped`, `Setup`, `NoServer`, `Cleared`, `Aborted`, `Cancelled` |
/// | 504 Gateway Timeout | `Timeout`, `Hung` |
///
/// It logs nothing. [`response_error!`](crate::response_error) uses it for the `status_code` of an error of yours.
pub fn status(failure: &Failure) -> StatusCode {
    match failure.kind() {
        FailureKind::Overloaded
        | FailureKind::Quarantined
        | FailureKind::Stopped
        | FailureKind::Setup
        | FailureKind::NoServer
        | FailureKind::Cleared
        | FailureKind::Aborted
        | FailureKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Timeout | FailureKind::Hung => StatusCode::GATEWAY_TIMEOUT,
        FailureKind::Payload if failure.is_of_large_message() => StatusCode::PAYLOAD_TOO_LARGE,
        FailureKind::Payload
        | FailureKind::Died
        | FailureKind::Panic
        | FailureKind::Protocol
        | FailureKind::Task
        | FailureKind::Elsewhere
        | FailureKind::Other => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Makes the response to a request whose call failed: the [`status`], `Retry-After` where another attempt is of use, and
/// one neutral line of text, that of [`Failure::public`] or for 413 `the request is too large`.
///
/// Nothing else of the failure reaches the client: no name, no text of a panic, no output of a worker, no process id.
///
/// # Retry-After
///
/// `Overloaded`, `Quarantined`, `Stopped`, `Setup`, `NoServer` and `Cleared` have it. The value is
/// [`Failure::retry_after`], or 1 s if that is not known, made longer by up to 20 % at random and rounded up to whole
/// seconds. It is at least 1. A call that was aborted or cancelled may have had effects, so its response does not ask for
/// another attempt.
///
/// # Logging
///
/// The full report (`{failure:#}`) is logged where its first response is made, as one `tracing` event with the target
/// `forkpool`, the fields `status` and `report`, and the current span as its parent. The level is error for the status 500
/// and the kinds `Setup`, `NoServer` and `Hung`, debug for `Cancelled`, whose client is gone, and warn for all others. Each further response that is made of the same
/// failure or of its clones logs one line with the level debug, so it does no harm that a middleware calls
/// [`ResponseError::error_response`] again. If the log cannot keep up, the event is dropped and counted.
///
/// ```no_run
/// # use actix_web::{HttpResponse, web};
/// # use forkpool::prelude::*;
/// async fn ready<W: Worker>(pool: web::Data<PoolHandle<W>>) -> HttpResponse {
///     match pool.ready().await {
///         Ok(()) => HttpResponse::NoContent().finish(),
///         Err(failure) => forkpool::web::response(&failure),
///     }
/// }
/// ```
pub fn response(failure: &Failure) -> HttpResponse {
    respond(failure, plain_text)
}

/// As [`response`], with the line in a JSON body: `{"error":"the service is busy; try again later"}`.
///
/// ```no_run
/// # use actix_web::HttpResponse;
/// # use forkpool::prelude::*;
/// fn answer(result: Result<u64, Failure>) -> HttpResponse {
///     match result {
///         Ok(sum) => HttpResponse::Ok().json(sum),
///         Err(failure) => forkpool::web::json_response(&failure),
///     }
/// }
/// ```
pub fn json_response(failure: &Failure) -> HttpResponse {
    respond(failure, json_text)
}

fn respond(failure: &Failure, of_text: fn(StatusCode, &str) -> HttpResponse) -> HttpResponse {
    let status = status(failure);
    tell(failure, status);
    let line = if status == StatusCode::PAYLOAD_TOO_LARGE { TOO_LARGE } else { failure.public() };
    let mut response = of_text(status, line);
    if let Some(seconds) = retry_after(failure, random()) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Returns the seconds after which another attempt is of use, for a random number between 0 and 1.
fn retry_after(failure: &Failure, random: f64) -> Option<u64> {
    // Those calls may have had effects.
    let has_begun = matches!(failure.kind(), FailureKind::Aborted | FailureKind::Cancelled);
    if status(failure) != StatusCode::SERVICE_UNAVAILABLE || has_begun {
        return None;
    }
    let wait = failure.retry_after().unwrap_or(UNKNOWN_WAIT);
    let seconds = (wait.as_secs_f64() * (1.0 + JITTER * random)).ceil();
    // A float beyond the integers becomes the largest one.
    Some((seconds as u64).max(1))
}

/// Each state has keys of its own.
fn random() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

/// Logs the failure below the current span.
fn tell(failure: &Failure, status: StatusCode) {
    let is_first = failure.mark_told();
    let is_grave = status == StatusCode::INTERNAL_SERVER_ERROR
        || matches!(failure.kind(), FailureKind::Setup | FailureKind::NoServer | FailureKind::Hung);
    let (failure, status) = (failure.clone(), status.as_u16());
    let span = caught(Span::current).unwrap_or_else(Span::none);
    let is_gone = failure.kind() == FailureKind::Cancelled;
    teller::tell(move || match (is_first, is_grave) {
        (true, false) if is_gone => {
            tracing::debug!(target: "forkpool", parent: &span, status, report = %format_args!("{failure:#}"),
                "a request has no use for a response, because its call was given up");
        }
        (true, true) => {
            tracing::error!(target: "forkpool", parent: &span, status, report = %format_args!("{failure:#}"),
                "a request failed, because its call did");
        }
        (true, false) => {
            tracing::warn!(target: "forkpool", parent: &span, status, report = %format_args!("{failure:#}"),
                "a request failed, because its call did");
        }
        (false, _) => {
            tracing::debug!(target: "forkpool", parent: &span, status, %failure,
                "another response was made of a failure whose report is logged");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::KIND_NAMES;

    /// H1
    #[test]
    fn every_kind_has_a_status_and_is_retried_where_that_is_of_use() {
        let table = [
            (FailureKind::Task, 500, false),
            (FailureKind::Panic, 500, false),
            (FailureKind::Setup, 503, true),
            (FailureKind::Timeout, 504, false),
            (FailureKind::Hung, 504, false),
            (FailureKind::Died, 500, false),
            (FailureKind::Aborted, 503, false),
            (FailureKind::Protocol, 500, false),
            (FailureKind::Cleared, 503, true),
            (FailureKind::Cancelled, 503, false),
            (FailureKind::Payload, 500, false),
            (FailureKind::Overloaded, 503, true),
            (FailureKind::Quarantined, 503, true),
            (FailureKind::Stopped, 503, true),
            (FailureKind::NoServer, 503, true),
            (FailureKind::Elsewhere, 500, false),
            (FailureKind::Other, 500, false),
        ];
        assert_eq!(table.map(|(kind, ..)| kind), KIND_NAMES.map(|(kind, _)| kind));
        for (kind, expected, is_retried) in table {
            let response = response(&Failure::of(kind, "a secret"));
            assert_eq!(response.status().as_u16(), expected, "{kind}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), is_retried, "{kind}");
        }
        let too_large = Failure::of(FailureKind::Payload, "").of_large_message(true);
        assert_eq!(status(&too_large), StatusCode::PAYLOAD_TOO_LARGE);
    }

    /// H4
    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds_with_up_to_a_fifth_more() {
        let table = [
            (0, 0.0, 1),
            (3, 0.0, 1),
            (3, 1.0, 1),
            (1_000, 0.0, 1),
            (1_000, 0.5, 2),
            (1_001, 0.0, 2),
            (10_000, 0.0, 10),
            (10_000, 0.5, 11),
            (10_000, 1.0, 12),
        ];
        for (milliseconds, random, expected) in table {
            let estimate = Duration::from_millis(milliseconds);
            let failure = Failure::of(FailureKind::Overloaded, "").retry_in(estimate);
            assert_eq!(retry_after(&failure, random), Some(expected), "{estimate:?} at {random}");
        }
        assert_eq!(retry_after(&Failure::of(FailureKind::Stopped, ""), 0.0), Some(1));
        let longest = Failure::of(FailureKind::Overloaded, "").retry_in(Duration::MAX);
        assert_eq!(retry_after(&longest, 1.0), Some(u64::MAX));
        let drawn = [(); 100].map(|()| random());
        assert!(drawn.iter().all(|one| (0.0..=1.0).contains(one)), "{drawn:?}");
        assert!(drawn.iter().any(|one| *one != drawn[0]), "{drawn:?}");
    }
}
