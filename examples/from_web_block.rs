//! A request handler of actix-web that does slow work in `web::block`, and the same handler with a pool.
//!
//! Both services get the same requests and answer alike. A crash inside `web::block` would end this program, and a crash
//! of a worker fails one request. docs/MIGRATING.md shows the marked parts and explains what changes.
//!
//! ```sh
//! cargo run --features actix-web --example from_web_block
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use actix_web::{App, HttpServer, rt, web};
use forkpool::prelude::*;

/// Before.
mod blocking {
    // shown: before
    use actix_web::error::ErrorBadRequest;
    use actix_web::{post, web};
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub struct Verify {
        plaintext: String,
        crypted: String,
    }

    #[post("/verify")]
    pub async fn verify(body: web::Json<Verify>) -> actix_web::Result<String> {
        let Verify { plaintext, crypted } = body.into_inner();
        let checked = web::block(move || bcrypt::verify(plaintext, &crypted)).await?;
        let matches = checked.map_err(ErrorBadRequest)?;
        Ok(matches.to_string())
    }
    // end: before
}

/// After.
mod pooled {
    // shown: worker
    use actix_web::{post, web};
    use forkpool::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, thiserror::Error, Serialize, Deserialize)]
    pub enum VerifyError {
        #[error("bcrypt: {0}")]
        Bcrypt(String), // BcryptError itself is not Serialize
        #[error(transparent)]
        Worker(#[from] Failure),
    }

    #[forkpool::function]
    pub fn matches(plaintext: &str, crypted: &str) -> Result<bool, VerifyError> {
        bcrypt::verify(plaintext, crypted).map_err(|error| VerifyError::Bcrypt(error.to_string()))
    }

    forkpool::functions!(pub Verifier { matches });
    forkpool::boot!(Verifier);
    // end: worker

    // shown: handler
    #[post("/verify")]
    pub async fn verify(
        pool: forkpool::web::Pool<Verifier>,
        body: web::Json<matches::Matches>,
    ) -> Result<String, VerifyError> {
        let matches = pool.send(body.into_inner()).await?;
        Ok(matches.to_string())
    }

    forkpool::response_error!(VerifyError { Worker(Failure), Bcrypt => BAD_REQUEST });
    // end: handler
}

/// Starts the pool once, outside of the factory, which runs for each thread of the server.
async fn serve(listener: TcpListener) -> Result<(), Box<dyn Error>> {
    // shown: start
    let pool = Pool::<pooled::Verifier>::builder(()).workers(2..=4).max_waiting(64).start()?;
    let handle = pool.clone();
    let app = move || App::new().app_data(handle.clone()).service(pooled::verify);
    let server = HttpServer::new(app).on_connect(forkpool::web::on_connect).listen(listener)?;
    forkpool::web::run(server, Duration::from_secs(10), &pool).await?;
    // end: start
    Ok(())
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let crypted = bcrypt::hash("secret", 4)?;
    let right = format!(r#"{{"plaintext":"secret","crypted":"{crypted}"}}"#);
    let requests = [right, r#"{"plaintext":"secret","crypted":"nonsense"}"#.to_owned()];

    let (before, after) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let addresses = [("web::block", before.local_addr()?), ("forkpool", after.local_addr()?)];
    let blocking = HttpServer::new(|| App::new().service(blocking::verify)).listen(before)?.run();
    rt::spawn(blocking);
    rt::spawn(async {
        if let Err(error) = serve(after).await {
            eprintln!("the service has failed: {error}");
        }
    });

    for (name, address) in addresses {
        println!("--- {name}");
        for body in requests.clone() {
            println!("{}", web::block(move || request(address, &body)).await??);
        }
    }
    Ok(())
}

/// Returns the status line and the body of the response.
fn request(server: SocketAddr, json: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    write!(
        stream,
        "POST /verify HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok(format!("{}: {}", head.lines().next().unwrap_or_default(), body.trim_end()))
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::http::header::ContentType;
    use actix_web::test;

    use super::*;

    #[actix_web::test]
    async fn both_services_answer_alike() {
        let pool = Pool::<pooled::Verifier>::builder(()).workers(1..=1).start().expect("the pool starts");
        let before = test::init_service(App::new().service(blocking::verify)).await;
        let after = test::init_service(App::new().app_data(pool.clone()).service(pooled::verify)).await;

        let crypted = bcrypt::hash("secret", 4).expect("a hash");
        let table = [
            ("secret", crypted.as_str(), StatusCode::OK, "true"),
            ("another", crypted.as_str(), StatusCode::OK, "false"),
            ("secret", "nonsense", StatusCode::BAD_REQUEST, ""),
        ];
        for (plaintext, crypted, status, body) in table {
            let json = format!(r#"{{"plaintext":"{plaintext}","crypted":"{crypted}"}}"#);
            let request = || {
                let request = test::TestRequest::post().uri("/verify").insert_header(ContentType::json());
                request.set_payload(json.clone()).to_request()
            };
            let old = test::call_service(&before, request()).await;
            let new = test::call_service(&after, request()).await;
            assert_eq!((old.status(), new.status()), (status, status), "{plaintext}");
            if status == StatusCode::OK {
                assert_eq!(test::read_body(old).await, body, "{plaintext}");
                assert_eq!(test::read_body(new).await, body, "{plaintext}");
            }
        }
        pool.stop(Duration::ZERO).await;
    }
}
