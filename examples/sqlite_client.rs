//! Three statements queued on one checkout of `sqlite_server`: they run in one worker, one after the other.
//!
//! ```sh
//! cargo run --release --example sqlite_client
//! ```

#![forbid(unsafe_code)]

#[path = "workers/database.rs"]
mod database;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use database::{Database, Execute, Query};
use forkpool::prelude::*;

#[actix::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let (address, None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: sqlite_client [ADDRESS]");
        return ExitCode::from(2);
    };
    match people(&address.unwrap_or_else(|| database::ADDRESS.to_owned())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sqlite_client: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn people(address: &str) -> Result<(), Box<dyn Error>> {
    let pool = Pool::<Database>::connect(address).workers(1..=2).timeout(Duration::from_secs(10)).start()?;
    let checkout = pool.checkout().start();

    // None is waited for before the next one is sent. An error would clear those behind it.
    let create =
        "CREATE TABLE IF NOT EXISTS people (name TEXT NOT NULL, seen TEXT DEFAULT CURRENT_TIMESTAMP)";
    let created = checkout.send(Execute { sql: create.to_owned(), values: Vec::new() });
    let insert = "INSERT INTO people (name) VALUES (?1), (?2)";
    let inserted =
        checkout.send(Execute { sql: insert.to_owned(), values: vec!["Ada".into(), "Grace".into()] });
    let select = "SELECT rowid, name, seen FROM people ORDER BY rowid DESC LIMIT 4";
    let selected = checkout.send(Query { sql: select.to_owned(), values: Vec::new() });

    created.await??;
    println!("inserted {} rows", inserted.await??);
    for row in selected.await?? {
        println!("{row:?}");
    }

    let wrong = Query { sql: "SELECT * FROM nobody".to_owned(), values: Vec::new() };
    if let Err(error) = checkout.send(wrong).await? {
        println!("error: {error}");
    }
    drop(checkout);
    pool.stop(Duration::from_secs(1)).await;
    Ok(())
}
