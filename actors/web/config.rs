//! What holds for the calls of web requests.

use std::time::Duration;

use actix_web::error::ErrorBadRequest;
use actix_web::http::header::HeaderName;
use actix_web::{Error, HttpRequest, web};

use super::ClientPolicy;
use crate::clock::Instant;
use crate::config::OnCancel;

/// What holds for the calls that are made through [`web::Pool`](super::Pool), given to the application with
/// `App::app_data`, as itself or in `actix_web::web::Data`. Without one, the defaults hold. One in the data of a scope or a
/// resource holds there.
///
/// ```no_run
/// use std::time::Duration;
///
/// use actix_web::App;
/// use forkpool::prelude::*;
/// use forkpool::web::{ClientPolicy, Config};
///
/// let config = Config::default()
///     .on_client_gone(OnCancel::Kill)
///     .client_policy(ClientPolicy::HalfClose)
///     .deadline_header("x-request-timeout-ms")
///     .most(Duration::from_secs(20));
/// let app = App::new().app_data(config);
/// # drop(app);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) on_client_gone: OnCancel,
    pub(super) client_policy: ClientPolicy,
    deadline_header: Option<HeaderName>,
    most: Option<Duration>,
}

impl Default for Config {
    /// Returns a configuration in which the worker of a call is killed when its client is gone, an HTTP/1 client is gone when
    /// it has reset its connection, and requests have no deadline.
    fn default() -> Self {
        Config {
            on_client_gone: OnCancel::Kill,
            client_policy: ClientPolicy::default(),
            deadline_header: None,
            most: None,
        }
    }
}

impl Config {
    /// Returns the configuration of a request, if it was given one.
    pub(super) fn of(request: &HttpRequest) -> Option<&Self> {
        let shared = || request.app_data::<web::Data<Self>>().map(web::Data::get_ref);
        request.app_data::<Self>().or_else(shared)
    }

    /// Sets what becomes of a running call when its client is gone, or its future is dropped. Default: [`OnCancel::Kill`]. A
    /// call that has not begun never runs.
    pub fn on_client_gone(mut self, policy: OnCancel) -> Self {
        self.on_client_gone = policy;
        self
    }

    /// Sets when the client of an HTTP/1 request counts as gone. Default: [`ClientPolicy::Reset`].
    pub fn client_policy(mut self, policy: ClientPolicy) -> Self {
        self.client_policy = policy;
        self
    }

    /// Sets the header in which a client says how long it waits: whole milliseconds above zero. Default: none.
    ///
    /// The deadline of the request is so long after its first extractor runs, of those in this module. All calls of the
    /// request end there, with [`Timeout`](crate::FailureKind::Timeout), unless they have a shorter limit; the handler in the
    /// worker sees it as [`WorkerContext::deadline`](crate::WorkerContext::deadline). A [`BlobBody`](super::BlobBody) or a
    /// `BlobField` that has not arrived by then ends as well, with 408. A header that is no such number is answered 400.
    ///
    /// # Panics
    ///
    /// If no header can have this name.
    pub fn deadline_header(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        let header = HeaderName::try_from(&name);
        assert!(
            header.is_ok(),
            "no header can have the name {name:?}, see forkpool::web::Config::deadline_header"
        );
        self.deadline_header = header.ok();
        self
    }

    /// Sets the longest time for which a request is worked on, its upload included: a client that asks for more, or says
    /// nothing, gets this. Default: no limit but the pool's own [`timeout`](crate::PoolBuilder::timeout), and for an upload
    /// [`BlobConfig::idle_timeout`](super::BlobConfig::idle_timeout).
    pub fn most(mut self, limit: Duration) -> Self {
        self.most = Some(limit);
        self
    }

    /// Returns when the time of a request is over that was extracted at this time; `None` if it has no deadline.
    ///
    /// # Errors
    ///
    /// The response to a request whose header says no time.
    pub(super) fn deadline(&self, request: &HttpRequest, now: Instant) -> Result<Option<Instant>, Error> {
        let asked = self.deadline_header.as_ref().map(|name| asked_time(request, name)).transpose()?;
        let limit = asked.flatten().into_iter().chain(self.most).min();
        Ok(limit.and_then(|limit| now.checked_add(limit)))
    }
}

/// Returns the time that this header of a request says.
fn asked_time(request: &HttpRequest, header: &HeaderName) -> Result<Option<Duration>, Error> {
    let mut values = request.headers().get_all(header);
    let Some(value) = values.next() else { return Ok(None) };
    let millis = value.to_str().ok().and_then(whole_number).filter(|millis| *millis > 0);
    match millis.filter(|_| values.next().is_none()) {
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => Err(ErrorBadRequest(format!(
            "the header {header} must be given once, with a whole number of milliseconds above zero, such as 1500"
        ))),
    }
}

/// Returns the number that these digits are, or the largest one if they are more than that.
fn whole_number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::test::TestRequest;

    use super::*;

    /// H3
    #[test]
    fn the_deadline_of_a_request_is_what_it_asks_for_and_at_most_the_most() {
        const MILLIS: fn(u64) -> Option<Duration> = |millis| Some(Duration::from_millis(millis));
        let long = "9".repeat(40);
        for (values, most, expected) in [
            (vec![], None, Ok(None)),
            (vec![], MILLIS(700), Ok(MILLIS(700))),
            (vec!["1"], None, Ok(MILLIS(1))),
            (vec!["0300"], MILLIS(700), Ok(MILLIS(300))),
            (vec!["800"], MILLIS(700), Ok(MILLIS(700))),
            (vec![long.as_str()], MILLIS(700), Ok(MILLIS(700))),
            // No clock gets that far.
            (vec![long.as_str()], None, Ok(None)),
            (vec!["0"], MILLIS(700), Err(StatusCode::BAD_REQUEST)),
            (vec!["-5"], None, Err(StatusCode::BAD_REQUEST)),
            (vec!["+5"], None, Err(StatusCode::BAD_REQUEST)),
            (vec!["1.5"], None, Err(StatusCode::BAD_REQUEST)),
            (vec!["soon"], MILLIS(700), Err(StatusCode::BAD_REQUEST)),
            (vec![""], None, Err(StatusCode::BAD_REQUEST)),
            (vec!["٣"], None, Err(StatusCode::BAD_REQUEST)),
            (vec!["100", "100"], None, Err(StatusCode::BAD_REQUEST)),
        ] {
            let request = values.iter().fold(TestRequest::default(), |request, value| {
                request.append_header(("x-timeout", value.as_bytes()))
            });
            let config = Config { most, ..Config::default().deadline_header("x-timeout") };
            let now = Instant::now();
            let deadline = config.deadline(&request.to_http_request(), now);
            let left = deadline.map(|deadline| deadline.map(|deadline| deadline - now));
            let left = left.map_err(|error| error.as_response_error().status_code());
            assert_eq!(left, expected, "{values:?}, at most {most:?}");
        }
    }

    #[test]
    #[should_panic(expected = "no header can have the name \"time out\"")]
    fn a_name_that_no_header_can_have_is_refused_at_once() {
        let _config = Config::default().deadline_header("time out");
    }
}
