//! The middleware: what a request has around all that is done for it.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::error::ErrorInternalServerError;
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::bound_call::Seen;
use crate::actors::context::ErrorContext;
use crate::actors::telemetry::teller;
use crate::request_log::{FinishedLog, LogLevel, RequestLog};
use crate::user_code::caught;

/// Client closed request: the status of the log line of a request that has no response, since its client is gone. It is
/// never sent.
const CLIENT_GONE: u16 = 499;

type Deliver = dyn Fn(FinishedLog) + Send + Sync;
type Adjust = dyn Fn(ErrorContext, &ServiceRequest) -> ErrorContext + Send + Sync;

/// A middleware that gives each request what forkpool reports to: a `tracing` span, an [`ErrorContext`], and on request a
/// [`RequestLog`].
///
/// - The span is called `request`, has the target `forkpool::web` and the level `INFO`, and the fields `method`, `route` and
///   `status`. In it one event tells the end of the request, with its `status`. A request that is dropped before it has a
///   response, or whose client is gone by then, has the status 499 there; no client gets that.
/// - The route is the pattern that has matched, such as `/users/{id}`, and never the path: there are few of them. A request
///   that matches no pattern has the route `(none)`.
/// - The context is in force while the handler and the middlewares inside of this one run. It is called by method and route,
///   such as `GET /users/{id}`. It has no handler, unless [`context`](Self::context) adds one. Without a handler the failure of
///   a call that is awaited is left to the code that awaits it.
///
/// Wrap the whole application: of middlewares, those that were added later are further out.
///
/// ```no_run
/// use actix_web::App;
/// use forkpool::web::Requests;
///
/// let (sender, logs) = std::sync::mpsc::channel();
/// let requests = Requests::new().request_log(move |log| sender.send(log).unwrap_or_default());
/// let app = App::new().wrap(requests);
/// # drop((app, logs));
/// ```
#[derive(Clone)]
#[must_use = "a middleware has an effect once an application is wrapped in it"]
pub struct Requests {
    deliver: Option<Arc<Deliver>>,
    verbosity: LogLevel,
    adjust: Option<Arc<Adjust>>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("has_log", &self.deliver.is_some()).finish_non_exhaustive()
    }
}

impl Default for Requests {
    /// Makes a middleware without request logs.
    fn default() -> Self {
        Requests { deliver: None, verbosity: LogLevel::INFO, adjust: None }
    }
}

impl Requests {
    /// Makes a middleware without request logs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives each request a [`RequestLog`] of its own, which is in force for all calls that are made while the request is
    /// handled: it has a timer for each call, and what workers log during the calls.
    ///
    /// `deliver` gets each log once the response is sent and all calls are answered, and should be quick. The log has the
    /// values `method`, `route` and `status`. A handler gets its log as an extractor, to add to it:
    ///
    /// ```no_run
    /// use forkpool::RequestLog;
    ///
    /// async fn index(log: RequestLog) -> &'static str {
    ///     log.info("looking");
    ///     "nothing here"
    /// }
    /// # drop(index);
    /// ```
    pub fn request_log(mut self, deliver: impl Fn(FinishedLog) + Send + Sync + 'static) -> Self {
        self.deliver = Some(Arc::new(deliver));
        self
    }

    /// Sets the least severe level that request logs record. Default: [`LogLevel::INFO`].
    pub fn verbosity(mut self, least_severe: LogLevel) -> Self {
        self.verbosity = least_severe;
        self
    }

    /// Changes the context of each request before it is in force: adds a handler for failed calls, locals or baggage.
    ///
    /// ```no_run
    /// # use forkpool::prelude::*;
    /// use forkpool::ContextFailure;
    /// use forkpool::web::Requests;
    ///
    /// let requests = Requests::new().context(|context, _request| {
    ///     context.on_failure(|failure: ContextFailure| eprintln!("{failure}"))
    /// });
    /// # drop(requests);
    /// ```
    pub fn context(
        mut self,
        adjust: impl Fn(ErrorContext, &ServiceRequest) -> ErrorContext + Send + Sync + 'static,
    ) -> Self {
        self.adjust = Some(Arc::new(adjust));
        self
    }

    fn log(&self) -> Option<RequestLog> {
        let deliver = self.deliver.clone()?;
        Some(RequestLog::new(move |log| deliver(log)).with_verbosity(self.verbosity))
    }
}

impl<S, B> Transform<S, ServiceRequest> for Requests
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    S::Future: 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Transform = RequestsService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(RequestsService { service, requests: self.clone() }))
    }
}

/// A service in [`Requests`].
pub struct RequestsService<S> {
    service: S,
    requests: Requests,
}

impl<S> fmt::Debug for RequestsService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestsService").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl<S, B> Service<ServiceRequest> for RequestsService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    S::Future: 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = Handled<Result<Self::Response, Error>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let record = Record::begin(&request, self.requests.log());
        let context = record.context(&self.requests, &request);
        let handled = context.run(|| record.span.in_scope(|| self.service.call(request)));
        let handled = handled.instrument(record.span.clone());
        Handled { handled: Box::pin(context.scope(handled)), record }
    }
}

/// The future of a request. What is done for the request is dropped ahead of its record.
pub struct Handled<R> {
    handled: Pin<Box<dyn Future<Output = R>>>,
    record: Record,
}

impl<R> fmt::Debug for Handled<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handled").field("method", &self.record.method).finish_non_exhaustive()
    }
}

impl<B> Future for Handled<Result<ServiceResponse<B>, Error>> {
    type Output = Result<ServiceResponse<B>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(self.handled.as_mut().poll(cx));
        let status = match &result {
            Ok(response) => response.status(),
            Err(error) => error.as_response_error().status_code(),
        };
        self.record.end(Some(status.as_u16()));
        Poll::Ready(result)
    }
}

/// What the log and the span say about a request.
struct Record {
    method: String,
    route: String,
    span: Span,
    log: Option<RequestLog>,
    seen: Seen,
    is_over: bool,
}

impl Record {
    fn begin(request: &ServiceRequest, log: Option<RequestLog>) -> Self {
        let method = request.method().to_string();
        let route = request.match_pattern().unwrap_or_else(|| "(none)".to_owned());
        let span = tracing::info_span!(target: "forkpool::web", "request", method, route, status = Empty);
        if let Some(log) = &log {
            log.data("method", &method);
            log.data("route", &route);
            request.extensions_mut().insert(log.clone());
        }
        Record { method, route, span, log, seen: Seen::of(request.request()), is_over: false }
    }

    fn context(&self, requests: &Requests, request: &ServiceRequest) -> ErrorContext {
        let context = ErrorContext::named(format!("{} {}", self.method, self.route)).of_request();
        let context = self.log.iter().fold(context, ErrorContext::log);
        match &requests.adjust {
            Some(adjust) => adjust(context, request),
            None => context,
        }
    }

    /// Tells the end of the request; `None`: it was dropped before it had a response.
    fn end(&mut self, status: Option<u16>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let Record { method, route, span, .. } = self;
        let (status, end) = match status.filter(|_| !self.seen.is_gone()) {
            Some(status) => (status, "the request is answered"),
            None => {
                (CLIENT_GONE, "the request has no response: its client is gone, or the server has stopped")
            }
        };
        if let Some(log) = &self.log {
            log.data("status", status);
        }
        // The request may be dropped by a panic, and the subscriber is the application's code.
        caught(|| {
            span.record("status", status);
            tracing::info!(target: "forkpool::web", parent: &*span, method, route, status, "{end}");
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// Extracts the log that [`Requests::request_log`](super::Requests::request_log) gave to the request.
///
/// # Errors
///
/// 500 if the application is not wrapped in such a middleware. An `Option<RequestLog>` is `None` then.
impl FromRequest for RequestLog {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let log = request.extensions().get::<Self>().cloned();
        ready(log.ok_or_else(|| {
            teller::tell(|| {
                tracing::error!(target: "forkpool",
                    "a handler wants the RequestLog of its request, which has none: add .wrap(forkpool::web::Requests::new().request_log(…)) to the App");
            });
            ErrorInternalServerError("The application is not configured correctly. View the logs of forkpool for more details.")
        }))
    }
}
