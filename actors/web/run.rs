//! A web server and the pools behind it, which end together.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::Request;
use actix_http::body::MessageBody;
use actix_rt::signal::unix::{Signal, SignalKind, signal};
use actix_service::{IntoServiceFactory, Service, ServiceFactory};
use actix_web::HttpServer;
use actix_web::dev::{AppConfig, Response, Server};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::pools::{AnyPool, Pools};
use crate::actors::api::stop_report::StopReport;
use crate::actors::telemetry::teller;
use crate::actors::threads::real_time::within;
use crate::clock::Instant;

/// The longest time that is kept of a shutdown for the answers to calls that had to be ended (1 s).
const MOST_FOR_ANSWERS: Duration = Duration::from_secs(1);

/// Runs a web server until it is to stop, and then stops it first and the pools behind it, within `shutdown_timeout`.
///
/// ```no_run
/// # use std::time::Duration;
/// # use actix_web::{App, HttpServer, web};
/// # use forkpool::prelude::*;
/// # async fn serve<A: Worker, B: Worker>(thumbnails: PoolHandle<A>, passwords: PoolHandle<B>) -> std::io::Result<()> {
/// let data = web::Data::new(thumbnails.clone());
/// let server = HttpServer::new(move || App::new().app_data(data.clone())).bind(("0.0.0.0", 8080))?;
/// let report = forkpool::web::run(server, Duration::from_secs(30), (&thumbnails, &passwords)).await?;
/// println!("{report}"); // nothing is left
/// # Ok(())
/// # }
/// ```
///
/// # What ends it
///
/// As with actix-web alone, SIGTERM stops it gracefully, and SIGINT and SIGQUIT end it at once. So do
/// [`RunHandle::stop`] and [`RunHandle::stop_now`]. What ends it at once also cuts a graceful stop short; another
/// SIGTERM changes nothing. [`Running::without_signals`] leaves all signals alone; `HttpServer::disable_signals` has no
/// effect. A server that ends by itself, because of `HttpServer::shutdown_signal` or of an error, ends its pools, too.
///
/// # A graceful stop
///
/// 1. The server takes no new connections, and connections end after their current request. Requests still may make
///    calls.
/// 2. Once all requests are answered, the pools are stopped. Calls that no request waits for may finish in what is left of
///    the time.
/// 3. The last tenth of `shutdown_timeout`, at most a second, is kept for answers: when it begins, calls that still run are
///    ended with their workers, and fail with [`Stopped`](crate::FailureKind::Stopped), which is a response with the status
///    503.
///
/// So each request that has reached a handler is answered, if the handler itself does not take too long. A connection that
/// no thread of the server has taken up yet is closed unanswered. `shutdown_timeout`
/// becomes that of the server, rounded up to whole seconds. actix-web looks once in a second whether its connections have
/// ended, and a pool whose processes cannot be killed is given up after another five seconds. Give a service manager
/// that much more time before it kills the application.
///
/// To end at once means that connections are cut and workers killed; some requests may still be answered 503.
///
/// # Errors
///
/// That of the server, or of the system if it does not register a handler of a signal. The pools are stopped then as well.
/// Otherwise the [`StopReport`] tells whether a process of any pool was left; a pool that leaves one is also logged as a
/// warning.
///
/// # Panics
///
/// If the server has no address, as `HttpServer::run`.
///
/// # Cancellation
///
/// Dropping the future ends the server at once. The pools go on until their last handles are dropped.
pub fn run<F, I, S, B>(
    server: HttpServer<F, I, S, B>,
    shutdown_timeout: Duration,
    pools: impl Pools,
) -> Running
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    S::Service: 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let server = server.disable_signals().shutdown_timeout(whole_seconds(shutdown_timeout)).run();
    let mut all = Vec::new();
    pools.add_to(&mut all);
    let (handle, requests) = unbounded_channel();
    let plan =
        Plan { server, for_calls: time_for_calls(shutdown_timeout), pools: all, heeds: true, requests };
    Running { state: State::Planned(Some(Box::new(plan))), handle: RunHandle(handle) }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// Returns how much of a shutdown calls may take.
fn time_for_calls(shutdown_timeout: Duration) -> Duration {
    shutdown_timeout - (shutdown_timeout / 10).min(MOST_FOR_ANSWERS)
}

/// A web server that runs with its pools, from [`run`]: a future that is ready once all of them have ended.
#[must_use = "the server runs while this is awaited"]
pub struct Running {
    state: State,
    handle: RunHandle,
}

enum State {
    /// `None` while it is being started.
    Planned(Option<Box<Plan>>),
    Started(Pin<Box<dyn Future<Output = io::Result<StopReport>> + Send>>),
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_started = matches!(self.state, State::Started(_));
        f.debug_struct("Running").field("is_started", &is_started).finish_non_exhaustive()
    }
}

impl Running {
    /// Returns a handle that stops the server and its pools from other code.
    pub fn handle(&self) -> RunHandle {
        self.handle.clone()
    }

    /// Has no signal end the server. Without another handler SIGTERM then ends the application at once.
    pub fn without_signals(mut self) -> Self {
        if let State::Planned(Some(plan)) = &mut self.state {
            plan.heeds = false;
        }
        self
    }
}

impl Future for Running {
    type Output = io::Result<StopReport>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Planned(plan) = &mut self.state
            && let Some(plan) = plan.take()
        {
            self.state = State::Started(Box::pin(plan.carry_out()));
        }
        match &mut self.state {
            State::Started(running) => running.as_mut().poll(cx),
            State::Planned(_) => Poll::Pending,
        }
    }
}

/// Stops a server that [`run`] runs, and its pools. It may be cloned and sent to other threads.
///
/// ```no_run
/// # use std::time::Duration;
/// # use actix_web::{App, HttpServer};
/// # async fn serve() -> std::io::Result<()> {
/// let server = HttpServer::new(App::new).bind(("127.0.0.1", 8080))?;
/// let running = forkpool::web::run(server, Duration::from_secs(30), ());
/// let handle = running.handle();
/// actix_web::rt::spawn(async move {
///     actix_web::rt::time::sleep(Duration::from_secs(3600)).await;
///     handle.stop();
/// });
/// running.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RunHandle(UnboundedSender<Halt>);

impl RunHandle {
    /// Stops the server gracefully, as SIGTERM does. Once it stops, another request changes nothing.
    pub fn stop(&self) {
        // One that has ended needs no request.
        let _ = self.0.send(Halt::Gracefully);
    }

    /// Ends the server and its pools at once, as SIGINT does, also during a graceful stop.
    pub fn stop_now(&self) {
        let _ = self.0.send(Halt::AtOnce);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Halt {
    Gracefully,
    AtOnce,
}

/// Requests to stop: by signals and by handles.
struct Halts {
    signals: Vec<(Signal, Halt)>,
    requests: UnboundedReceiver<Halt>,
}

impl Halts {
    fn heed_signals(&mut self) -> io::Result<()> {
        let kinds = [
            (SignalKind::interrupt(), Halt::AtOnce),
            (SignalKind::quit(), Halt::AtOnce),
            (SignalKind::terminate(), Halt::Gracefully),
        ];
        for (kind, halt) in kinds {
            self.signals.push((signal(kind)?, halt));
        }
        Ok(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Halt> {
        for (signal, halt) in &mut self.signals {
            if let Poll::Ready(Some(())) = signal.poll_recv(cx) {
                return Poll::Ready(*halt);
            }
        }
        match self.requests.poll_recv(cx) {
            Poll::Ready(Some(halt)) => Poll::Ready(halt),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    async fn next(&mut self) -> Halt {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for a request that cuts a graceful stop short.
    async fn at_once(&mut self) {
        while self.next().await != Halt::AtOnce {}
    }
}

struct Plan {
    server: Server,
    /// How much time calls have after a request to stop.
    for_calls: Duration,
    pools: Vec<AnyPool>,
    /// Whether signals end it.
    heeds: bool,
    requests: UnboundedReceiver<Halt>,
}

/// How the server has ended, and what becomes of the pools.
enum Served {
    /// They may drain for so long.
    Ended(io::Result<()>, Duration),
    /// Their stop has begun.
    Outlasted(io::Result<()>, Stops),
}

impl Plan {
    async fn carry_out(mut self: Box<Self>) -> io::Result<StopReport> {
        let (_, unused) = unbounded_channel();
        let requests = std::mem::replace(&mut self.requests, unused);
        let mut halts = Halts { signals: Vec::new(), requests };
        let heeded = if self.heeds { halts.heed_signals() } else { Ok(()) };
        let served = match heeded {
            Ok(()) => self.serve(&mut halts).await,
            Err(error) => Served::Ended(Err(error), Duration::ZERO),
        };
        let Plan { server, pools, .. } = *self;
        // What a server that is to end at once still has is cut off here.
        drop(server);
        let (result, stops) = match served {
            Served::Ended(result, drain) => (result, stop(&pools, drain)),
            Served::Outlasted(result, stops) => (result, stops),
        };
        let mut reports = pin!(reports(stops));
        let report = match either(reports.as_mut(), halts.at_once()).await {
            Either::First(report) => report,
            Either::Second(()) => {
                let _again = stop(&pools, Duration::ZERO);
                reports.await
            }
        };
        result.map(|()| report)
    }

    /// Runs the server until it has ended or is to be cut off.
    async fn serve(&mut self, halts: &mut Halts) -> Served {
        match either(&mut self.server, halts.next()).await {
            Either::First(result) => return Served::Ended(result, self.for_calls),
            Either::Second(Halt::AtOnce) => return Served::Ended(Ok(()), Duration::ZERO),
            Either::Second(Halt::Gracefully) => {}
        }
        // The request is on its way, and the server itself says when it has ended.
        drop(self.server.handle().stop(true));
        let since = Instant::now();
        match within(self.for_calls, either(&mut self.server, halts.at_once())).await {
            Some(Either::First(result)) => {
                return Served::Ended(result, self.for_calls.saturating_sub(since.elapsed()));
            }
            Some(Either::Second(())) => return Served::Ended(Ok(()), Duration::ZERO),
            None => {}
        }
        // The requests that are left are answered that their calls have failed.
        let stops = stop(&self.pools, Duration::ZERO);
        match either(&mut self.server, halts.at_once()).await {
            Either::First(result) => Served::Outlasted(result, stops),
            Either::Second(()) => Served::Outlasted(Ok(()), stops),
        }
    }
}

/// Pools that are being stopped, with their names.
type Stops = Vec<(String, JoinHandle<StopReport>)>;

fn stop(pools: &[AnyPool], drain: Duration) -> Stops {
    pools.iter().map(|pool| (pool.name().to_owned(), pool.stop(drain))).collect()
}

/// Waits until all pools have ended, and returns what is left of them.
async fn reports(stops: Stops) -> StopReport {
    let mut whole = StopReport::default();
    for (pool, stop) in stops {
        let report = stop.await.unwrap_or_else(|error| StopReport {
            reason: Some(format!("the task that stopped pool {pool} has ended: {error}")),
            ..StopReport::default()
        });
        if !report.is_complete() {
            let text = report.to_string();
            teller::tell(move || {
                tracing::warn!(target: "forkpool", %pool, report = text, "a pool has not ended");
            });
        }
        whole.left.extend(report.left);
        let reasons: Vec<String> = whole.reason.into_iter().chain(report.reason).collect();
        whole.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    }
    whole
}

enum Either<A, B> {
    First(A),
    Second(B),
}

/// Waits for the one that is ready first; the first one if both are.
async fn either<A: Future + Unpin, B: Future>(mut first: A, second: B) -> Either<A::Output, B::Output> {
    let mut second = pin!(second);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = Pin::new(&mut first).poll(cx) {
            return Poll::Ready(Either::First(output));
        }
        second.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H5
    #[test]
    fn the_last_tenth_of_a_shutdown_and_at_most_a_second_is_for_answers() {
        let table =
            [(0, 0, 0), (10, 1, 9), (500, 1, 450), (1000, 1, 900), (1001, 2, 900), (30_000, 30, 29_000)];
        for (milliseconds, seconds, for_calls) in table {
            let timeout = Duration::from_millis(milliseconds);
            assert_eq!(whole_seconds(timeout), seconds, "{timeout:?}");
            assert_eq!(time_for_calls(timeout).as_millis(), for_calls, "{timeout:?}");
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }
}
