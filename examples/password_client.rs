//! An application whose workers come from `password_server`. Either may be started first.
//!
//! ```sh
//! cargo run --release --example password_client             # hash, verify, and what the server says
//! cargo run --release --example password_client -- --watch  # call for ever, to see a server come and go
//! ```

#![forbid(unsafe_code)]

#[path = "workers/passwords.rs"]
mod passwords;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use forkpool::prelude::*;
use lexopt::{Arg, ValueExt};
use passwords::{HashError, Hasher, HasherCalls};

const USAGE: &str = "usage: password_client [--watch] [ADDRESS]";

#[actix::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let (watch, address) = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("password_client: {error}; {USAGE}");
            return ExitCode::from(2);
        }
    };
    match call(watch, address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("password_client: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether to go on for ever, and where the server is.
fn arguments() -> Result<(bool, String), lexopt::Error> {
    let (mut watch, mut address) = (false, passwords::ADDRESS.to_owned());
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("watch") => watch = true,
            Arg::Value(value) => address = value.string()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok((watch, address))
}

async fn call(watch: bool, address: String) -> Result<(), Box<dyn Error>> {
    let pool = Pool::<Hasher>::connect(address).workers(1..=2).timeout(Duration::from_secs(10)).start()?;
    hash_and_verify(&pool).await?;
    if let Ok(server) = pool.server_stats().await {
        println!("server: process {}, {} clients, {} workers", server.pid, server.clients, server.workers);
    }
    if watch {
        watch_calls(&pool).await;
    }
    pool.stop(Duration::from_secs(1)).await;
    Ok(())
}

async fn hash_and_verify(pool: &PoolHandle<Hasher>) -> Result<(), Box<dyn Error>> {
    let checkout = pool.checkout().start();
    let crypted = checkout.hash("secret").await?;
    println!("hash:   {crypted}");
    for guess in ["secret", "Secret"] {
        let is_right = checkout.verify(&crypted, guess).await?;
        println!("verify: {guess:?} is {}", if is_right { "right" } else { "wrong" });
    }
    match checkout.hash("").await {
        Err(HashError::Empty) => println!("error:  {}", HashError::Empty),
        other => return Err(format!("an empty password became {other:?}").into()),
    }
    Ok(())
}

/// A line for each second: start, kill and replace servers meanwhile.
async fn watch_calls(pool: &PoolHandle<Hasher>) {
    loop {
        let (mut served, mut failed) = (0_u32, None);
        let second = Instant::now();
        while second.elapsed() < Duration::from_secs(1) {
            match pool.hash("secret").await {
                Ok(_) => served += 1,
                Err(error) => failed = Some(error.to_string()),
            }
        }
        println!("{served} hashes, {}", failed.unwrap_or_else(|| "none failed".to_owned()));
    }
}
