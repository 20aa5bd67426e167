//! A server of password hashers, for as many applications as come.
//!
//! ```sh
//! cargo run --release --example password_server                  # in one terminal
//! cargo run --release --example password_client                  # in another
//! cargo run --release --example password_server -- --take-over   # in a third: replaces the first
//! ```
//!
//! Other addresses may be given: `unix:/run/passwords.sock`, `tcp:127.0.0.1:7000`, `systemd:` for the sockets of a
//! service manager.

#![forbid(unsafe_code)]

#[path = "workers/passwords.rs"]
mod passwords;

use std::process::ExitCode;
use std::time::Duration;

use forkpool::{Server, ServerError};
use lexopt::{Arg, ValueExt};
use passwords::Hasher;

const USAGE: &str = "usage: password_server [--take-over] [ADDRESS]...";

/// A plain `main`: a server forks, so it must not have threads, nor a runtime.
fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let (take_over, addresses) = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("password_server: {error}; {USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(take_over, addresses) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("password_server: {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Whether to replace a server that runs, and where to listen.
fn arguments() -> Result<(bool, Vec<String>), lexopt::Error> {
    let (mut take_over, mut addresses) = (false, Vec::new());
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("take-over") => take_over = true,
            Arg::Value(address) => addresses.push(address.string()?),
            other => return Err(other.unexpected()),
        }
    }
    if addresses.is_empty() {
        addresses.push(passwords::ADDRESS.to_owned());
    }
    Ok((take_over, addresses))
}

fn serve(take_over: bool, addresses: Vec<String>) -> Result<(), ServerError> {
    let server = Server::<Hasher>::new(Hasher { cost: 10 })
        .name("passwords")
        .take_over(take_over)
        // Calls that run when SIGTERM arrives may take this long.
        .drain_timeout(Duration::from_secs(30));
    let server = addresses.into_iter().try_fold(server, |server, address| server.listen(address))?;
    server.run()
}
