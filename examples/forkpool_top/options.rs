//! What the command line says.

use std::ffi::OsString;
use std::time::Duration;

use lexopt::prelude::*;

pub const USAGE: &str = "\
usage: forkpool_top [OPTION]... ADDRESS

Watches the pools of an application at its console, such as unix:/run/app.pools.sock.

  --server          ADDRESS is that of a standalone server: unix:/path or tcp:host:port
  --demo            starts a pool and watches it, without an address
  --interval SECS   seconds between two looks, at least 0.1; default 1
  --once            prints what there is, and ends
  --json            with --once: prints the line that was received
  --help            prints this

Keys: q quits, space pauses, tab shows the next pool, up and down scroll; workers are sorted by n number, a age,
c processor, m memory, t time of their call; i inverts the order.
";

/// What is watched.
#[derive(Debug, PartialEq)]
pub enum Target {
    Console(String),
    Server(String),
    Demo,
}

#[derive(Debug, PartialEq)]
pub struct Options {
    pub target: Target,
    pub interval: Duration,
    pub once: bool,
    pub json: bool,
}

/// `None`: help was asked for.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Options>, lexopt::Error> {
    let (mut address, mut is_server, mut is_demo, mut once, mut json) = (None, false, false, false, false);
    let mut interval = Duration::from_secs(1);
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("server") => is_server = true,
            Long("demo") => is_demo = true,
            Long("once") => once = true,
            Long("json") => json = true,
            Long("interval") => interval = parser.value()?.parse_with(seconds)?,
            Long("help") | Short('h') => return Ok(None),
            Value(value) if address.is_none() => address = Some(value.string()?),
            _ => return Err(argument.unexpected()),
        }
    }
    let target = match (address, is_demo) {
        (Some(_), true) => return Err("--demo takes no address".into()),
        (None, true) if is_server => return Err("--demo starts a pool, and no server".into()),
        (None, true) => Target::Demo,
        (Some(address), false) if is_server => Target::Server(address),
        (Some(address), false) => Target::Console(address),
        (None, false) => return Err("which address? write unix:/path of the console, or --demo".into()),
    };
    if json && !once {
        return Err("--json is for --once".into());
    }
    Ok(Some(Options { target, interval, once, json }))
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let rule = "it must be a number of seconds from 0.1 to 3600";
    let seconds: f64 = text.parse().map_err(|_| rule)?;
    if (0.1..=3600.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(rule) }
}
