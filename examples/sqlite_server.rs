//! A server of SQLite connections: each worker has one, and whoever checks it out has it alone.
//!
//! ```sh
//! cargo run --release --example sqlite_server -- /tmp/forkpool-people.db   # in one terminal
//! cargo run --release --example sqlite_client                              # in another
//! ```

#![forbid(unsafe_code)]

#[path = "workers/database.rs"]
mod database;

use std::path::PathBuf;
use std::process::ExitCode;

use database::Database;
use forkpool::Server;

/// A plain `main`: a server forks, so it must not have threads, nor a runtime.
fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args_os().skip(1);
    let (Some(file), address, None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: sqlite_server FILE [ADDRESS]");
        return ExitCode::from(2);
    };
    let address = address.map_or(database::ADDRESS.into(), |address| address.to_string_lossy().into_owned());
    match serve(file.into(), &address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sqlite_server: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn serve(file: PathBuf, address: &str) -> Result<(), forkpool::ServerError> {
    Server::<Database>::new(file).name("sqlite").listen(address)?.run()
}
