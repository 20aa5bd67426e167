//! A gRPC service of tonic whose calls are answered by worker processes.
//!
//! The service and its messages are written by hand, so no compiler of protocol buffers is needed. The pool waits in
//! `poll_ready` until it has room, and a deadline that the client sets ends that wait, or the call.
//!
//! ```sh
//! cargo run -p forkpool-tower --features tower --example tonic_service -- 127.0.0.1:50051
//! ```

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http;
use forkpool::PoolService;
use forkpool::prelude::*;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceExt, service_fn};

use workers::{Factor, FactorError, Factors};

#[path = "workers/factors.rs"]
mod workers;

/// The only method of the service.
const FACTOR: &str = "/forkpool.Factors/Factor";

#[derive(Clone, PartialEq, prost::Message)]
struct FactorRequest {
    #[prost(uint64, tag = "1")]
    number: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FactorReply {
    #[prost(uint64, repeated, tag = "1")]
    factors: Vec<u64>,
    /// The process that has found them.
    #[prost(uint32, tag = "2")]
    worker: u32,
}

// shown: method
async fn factor(
    pool: PoolService<Factors>,
    request: Request<FactorRequest>,
) -> Result<Response<FactorReply>, Status> {
    let FactorRequest { number } = request.into_inner();
    let factored = pool.oneshot(Factor(number)).await.map_err(|error| status(&error))?;
    Ok(Response::new(FactorReply { factors: factored.factors, worker: factored.worker }))
}
// end: method

/// Returns the status of a call that failed. Texts of failures are for the log.
fn status(error: &FactorError) -> Status {
    match error {
        FactorError::Zero => Status::invalid_argument(error.to_string()),
        FactorError::Worker(failure) => match failure.kind() {
            FailureKind::Timeout => Status::deadline_exceeded("it took too long"),
            FailureKind::Stopped | FailureKind::NoServer => Status::unavailable("the service stops"),
            _ => Status::internal("the call failed"),
        },
    }
}

#[derive(Clone)]
struct Factoring(PoolService<Factors>);

impl NamedService for Factoring {
    const NAME: &'static str = "forkpool.Factors";
}

impl Service<http::Request<Body>> for Factoring {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Factoring(pool) = self.clone();
        Box::pin(async move {
            let method = service_fn(|request| factor(pool.clone(), request));
            Ok(match request.uri().path() {
                FACTOR => Grpc::new(ProstCodec::default()).unary(method, request).await,
                _ => Status::unimplemented("there is no such method").into_http(),
            })
        })
    }
}

/// Serves until `stop` is ready, and ends the pool once the last call is answered.
async fn serve(
    incoming: TcpIncoming,
    pool: PoolHandle<Factors>,
    stop: impl Future<Output = ()>,
) -> Result<StopReport, Box<dyn Error>> {
    let factoring = Factoring(pool.service()?);
    Server::builder().add_service(factoring).serve_with_incoming_shutdown(incoming, stop).await?;
    Ok(pool.stop(Duration::from_secs(5)).await)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::<Factors>::builder(()).workers(1..=4).max_waiting(16).start()?;
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let incoming = TcpIncoming::bind(address.parse()?)?;
    println!("{FACTOR} at {}, until Ctrl-C", incoming.local_addr()?);
    let report = serve(incoming, pool, async { drop(tokio::signal::ctrl_c().await) }).await?;
    println!("{report}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::uri::PathAndQuery;
    use tokio::sync::oneshot;
    use tonic::Code;
    use tonic::client;

    use tonic::transport::{Channel, Endpoint};

    use super::*;

    /// Longest wait for what is bound to happen.
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn factor(channel: &Channel, number: u64, limit: Duration) -> Result<FactorReply, Status> {
        let mut client = client::Grpc::new(channel.clone());
        client.ready().await.expect("a connection");
        let mut request = Request::new(FactorRequest { number });
        request.set_timeout(limit);
        let method = PathAndQuery::from_static(FACTOR);
        client.unary(request, method, ProstCodec::default()).await.map(Response::into_inner)
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it comes true");
    }

    /// V3, C9: a worker answers, errors are statuses, and a deadline of the client cancels the call.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_are_answered_by_workers() {
        let pool =
            Pool::<Factors>::builder(()).workers(1..=1).max_waiting(1).start().expect("the pool starts");
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a port is free");
        let server = incoming.local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let of_server = pool.clone();
        let running = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(incoming, of_server, stopped).await.map_err(|error| error.to_string())
        });
        let endpoint = Endpoint::from_shared(format!("http://{server}")).expect("an address");
        let channel = endpoint.connect().await.expect("a connection");

        let reply = factor(&channel, 600_851_475_143, PATIENCE).await.expect("a reply");
        assert_eq!(reply.factors, [71, 839, 1471, 6857]);
        assert_eq!(pool.stats().pids, [reply.worker]);
        let refused = factor(&channel, 0, PATIENCE).await.expect_err("zero has no factors");
        assert_eq!(refused.code(), Code::InvalidArgument);

        pool.pause();
        let late = factor(&channel, 8, Duration::from_millis(50)).await.expect_err("the pool is paused");
        assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late}");
        until(|| pool.stats().waiting == 0).await;
        pool.resume();
        assert_eq!(factor(&channel, 9, PATIENCE).await.expect("a reply").factors, [3, 3]);
        let stats = pool.stats();
        assert_eq!((stats.succeeded, stats.errors), (2, 1), "the late one never runs");

        drop(channel);
        stop.send(()).expect("the server runs");
        let report = running.await.expect("it does not panic").expect("it ends well");
        assert!(report.is_complete(), "{report}");
        assert_eq!(pool.stats().workers(), 0);
    }
}
