//! One request, three checkouts, one log: what the request says, what its workers say, and how long each call took.
//!
//! An order is placed by a web request. It is booked, charged and drawn at the same time, each on a worker of its own;
//! the one that draws goes down half way, and what it had said by then is in the log all the same.
//!
//! ```sh
//! cargo run --example request_log                    # prints the log, and draws it into a temporary file
//! cargo run --example request_log -- --svg order.svg # draws it here
//! cargo run --example request_log -- --json          # prints it for another program
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use actix::prelude::*;
use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, ResponseError, post, rt, web};
use forkpool::prelude::*;
use forkpool::{FinishedLog, LogLevel, RequestLog};
use serde::{Deserialize, Serialize};

#[derive(Clone, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
struct Reserve {
    item: String,
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<String, Failure>")]
struct Charge {
    card: String,
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<Vec<u8>, Failure>")]
struct Draw {
    pages: u32,
}

struct Clerk {
    in_stock: u32,
}

impl Actor for Clerk {
    type Context = WorkerContext<Self>;
}

impl Worker for Clerk {
    type Config = u32;

    fn setup(in_stock: u32, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Clerk { in_stock })
    }
}

impl Handler<Reserve> for Clerk {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Reserve { item }: Reserve, _: &mut WorkerContext<Self>) -> Self::Result {
        let left = self.in_stock.checked_sub(1).ok_or_else(|| Failure::task("nothing is left of it"))?;
        self.in_stock = left;
        match left {
            0 => tracing::warn!(item, "this was the last one"),
            _ => tracing::info!(item, left, "reserved"),
        }
        Ok(left)
    }
}

impl Handler<Charge> for Clerk {
    type Result = Result<String, Failure>;

    fn handle(&mut self, Charge { card }: Charge, ctx: &mut WorkerContext<Self>) -> Self::Result {
        let _timer = ctx.log().timer("sign");
        let signature = bcrypt::hash(card, 8).map_err(|error| Failure::task(error.to_string()))?;
        ctx.log().data("signature", &signature);
        Ok(signature)
    }
}

impl Handler<Draw> for Clerk {
    type Result = Result<Vec<u8>, Failure>;

    fn handle(&mut self, Draw { pages }: Draw, _: &mut WorkerContext<Self>) -> Self::Result {
        let mut picture = Vec::new();
        for page in 1..=pages {
            let _span = tracing::info_span!("page", page).entered();
            picture.extend(fractal(f64::from(page)));
            tracing::info!(bytes = picture.len(), "drawn");
            if page == 2 {
                tracing::error!("a corrupt font");
                // As native code does.
                std::process::abort();
            }
        }
        Ok(picture)
    }
}

/// Something to keep a processor busy: how far each point goes within 500 steps.
fn fractal(zoom: f64) -> impl Iterator<Item = u8> {
    (0..10_000).map(move |pixel| {
        let (a, b) = (f64::from(pixel % 100) / 40.0 / zoom - 2.0, f64::from(pixel / 100) / 40.0 / zoom);
        let mut point = (0.0_f64, 0.0_f64);
        let steps = (0..500).take_while(|_| {
            point = (point.0 * point.0 - point.1 * point.1 + a, 2.0 * point.0 * point.1 + b);
            point.0 * point.0 + point.1 * point.1 < 4.0
        });
        (steps.count() / 2) as u8
    })
}

forkpool::interface!(Clerk { Reserve, Charge, Draw });
forkpool::boot!(Clerk);

/// What a request can fail with.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error(transparent)]
    Clerk(#[from] Failure),
    #[error(transparent)]
    Mailbox(#[from] MailboxError),
}

impl ResponseError for OrderError {
    fn status_code(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

/// Where the logs of requests go: here to `main`, elsewhere to a thread that writes them.
type Logs = Sender<FinishedLog>;

#[post("/orders")]
async fn order(
    clerks: web::Data<PoolHandle<Clerk>>,
    logs: web::Data<Logs>,
    item: String,
) -> Result<HttpResponse, OrderError> {
    let logs = Logs::clone(&logs);
    let log = RequestLog::new(move |log| {
        // Nobody reads them any more at the very end of the program.
        let _ = logs.send(log);
    });
    log.record(LogLevel::INFO, "an order", [("item", &item)]);

    let [stock, till, printer] = std::array::from_fn(|_| clerks.checkout().log(&log).start());
    // All of them run from now on.
    let reserved = [stock.send(Reserve { item: item.clone() }), stock.send(Reserve { item })];
    let charged = till.send(Charge { card: "4242".to_owned() });
    let drawn = printer.send(Draw { pages: 5 });

    for reservation in reserved {
        reservation.await??;
    }
    let signature = charged.await??;
    let drawn = drawn.await?;
    if drawn.is_err() {
        log.warn("there is no picture; the order is good without it");
    }
    let picture = drawn.map_or(0, |picture| picture.len());
    Ok(HttpResponse::Created().body(format!("signed {signature}, {picture} bytes of picture")))
}

#[actix_web::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (json, svg) = match arguments.as_slice() {
        [] => (false, std::env::temp_dir().join(format!("request_log-{}.svg", std::process::id()))),
        ["--svg", file] => (false, PathBuf::from(file)),
        ["--json"] => (true, PathBuf::new()),
        _ => {
            eprintln!("unknown arguments: {}; known: --json, --svg FILE", arguments.join(" "));
            return Ok(ExitCode::from(2));
        }
    };

    let clerks = Pool::<Clerk>::builder(2).name("clerk").workers(3..=3).start()?;
    let (logs, delivered): (Logs, _) = mpsc::channel();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (clerks_of_all, logs) = (web::Data::new(clerks.clone()), web::Data::new(logs));
    let server = HttpServer::new(move || {
        App::new().app_data(clerks_of_all.clone()).app_data(logs.clone()).service(order)
    });
    let server = server.workers(1).listen(listener)?.run();
    let handle = server.handle();
    let server = rt::spawn(server);

    let response = web::block(move || request(address)).await?;
    let log = web::block(move || delivered.recv_timeout(Duration::from_secs(30))).await?;
    handle.stop(true).await;
    server.await??;
    clerks.stop(Duration::from_secs(1)).await;

    eprintln!("{}", response?);
    let log = log?;
    if json {
        println!("{}", log.to_json());
    } else {
        print!("{}", log.to_text(100, std::io::stdout().is_terminal()));
        draw(&log, &svg)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(log: &FinishedLog, path: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::write(path, log.to_svg()).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("drawn into {}", path.display());
    Ok(())
}

fn request(server: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let head =
        format!("POST /orders HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\ncontent-length: 3\r\n\r\n");
    stream.write_all(format!("{head}cup").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok(format!("{}: {body}", head.lines().next().unwrap_or_default()))
}
