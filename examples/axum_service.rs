//! A web service of axum whose requests are answered by worker processes.
//!
//! The pool is a service of tower behind the layer `load_shed`: a request that finds the queue full is answered 503 at
//! once.
//!
//! ```sh
//! cargo run -p forkpool-tower --features tower --example axum_service -- 127.0.0.1:8080
//! curl http://127.0.0.1:8080/factors/600851475143
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use forkpool::prelude::*;
use forkpool::{OptionError, PoolService};
use tower::load_shed::LoadShed;
use tower::{BoxError, ServiceBuilder, ServiceExt};

use workers::{Factor, FactorError, Factored, Factors};

#[path = "workers/factors.rs"]
mod workers;

// shown: application
type Factoring = LoadShed<PoolService<Factors>>;

fn application(pool: &PoolHandle<Factors>) -> Result<Router, OptionError> {
    let factoring = ServiceBuilder::new().load_shed().service(pool.service()?);
    Ok(Router::new().route("/factors/{number}", get(factors)).with_state(factoring))
}

async fn factors(
    State(pool): State<Factoring>,
    Path(number): Path<u64>,
) -> Result<Json<Factored>, StatusCode> {
    pool.oneshot(Factor(number)).await.map(Json).map_err(|error| status(&error))
}
// end: application

/// Returns the status of a response to a call that failed. Texts of failures are for the log.
fn status(error: &BoxError) -> StatusCode {
    match error.downcast_ref() {
        Some(FactorError::Zero) => StatusCode::BAD_REQUEST,
        Some(FactorError::Worker(failure)) => match failure.kind() {
            FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            FailureKind::Stopped | FailureKind::NoServer => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
        // The queue is full.
        None => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Serves until `stop` is ready, and ends the pool once the last request is answered.
async fn serve(
    listener: tokio::net::TcpListener,
    pool: PoolHandle<Factors>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<StopReport, Box<dyn Error>> {
    axum::serve(listener, application(&pool)?).with_graceful_shutdown(stop).await?;
    Ok(pool.stop(Duration::from_secs(5)).await)
}

// shown: start
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::<Factors>::builder(()).workers(1..=4).max_waiting(16).start()?;
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("http://{}/factors/600851475143, until Ctrl-C", listener.local_addr()?);
    let report = serve(listener, pool, async { drop(tokio::signal::ctrl_c().await) }).await?;
    println!("{report}");
    Ok(())
}
// end: start

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use tokio::sync::oneshot;
    use tokio::task::spawn_blocking;

    use super::*;

    /// Longest wait for what is bound to happen.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A response: its status and its body.
    async fn get(server: SocketAddr, number: u64) -> (u16, String) {
        let request = move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(server)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET /factors/{number} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = spawn_blocking(request).await.expect("it does not panic").expect("a response");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it comes true");
    }

    /// V1, V3: a worker answers, a full queue is a status, and nothing is left behind.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_are_answered_by_workers() {
        let pool =
            Pool::<Factors>::builder(()).workers(1..=1).max_waiting(1).start().expect("the pool starts");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let server = listener.local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let of_server = pool.clone();
        let running = tokio::spawn(async move {
            serve(listener, of_server, stopped).await.map_err(|error| error.to_string())
        });

        let (status, body) = get(server, 600_851_475_143).await;
        let answer: Factored = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, answer.factors), (200, vec![71, 839, 1471, 6857]));
        assert_eq!(pool.stats().pids, [answer.worker]);
        assert_eq!(get(server, 0).await.0, 400);

        // The worker and the queue have each a call that may not begin.
        pool.pause();
        until(|| pool.stats().idle == 1).await;
        let waiting = [8, 9].map(|number| tokio::spawn(get(server, number)));
        until(|| pool.stats().waiting == 2).await;
        assert_eq!(get(server, 10).await.0, 503);
        pool.resume();
        for waiting in waiting {
            assert_eq!(waiting.await.expect("it does not panic").0, 200);
        }

        stop.send(()).expect("the server runs");
        let report = running.await.expect("it does not panic").expect("it ends well");
        assert!(report.is_complete(), "{report}");
        assert_eq!(pool.stats().workers(), 0);
    }
}
