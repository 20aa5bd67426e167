//! Watches the pools of an application, or a standalone server, in a terminal.
//!
//! ```sh
//! cargo run -p forkpool-top --features top --example forkpool_top -- --demo
//! cargo run -p forkpool-top --features top --example forkpool_top -- unix:/run/app.pools.sock
//! ```
//!
//! The application opens the console with `pool.console("unix:/run/app.pools.sock").open()?`.

#![forbid(unsafe_code)]

pub mod demo;
pub mod model;
pub mod options;
pub mod plain;
pub mod screen;
pub mod source;
pub mod terminal;
pub mod view;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;

use demo::Demo;
use model::Model;
use options::{Options, Target, USAGE};
use source::Source;

pub fn main() -> ExitCode {
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("forkpool_top: {error}; see --help");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkpool_top: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let demo = matches!(options.target, Target::Demo).then(Demo::start).transpose()?;
    let shown = match &demo {
        // One look is of interest only when something has happened.
        Some(demo) if options.once => demo.warm_up(),
        _ => Ok(()),
    };
    let result = shown.and_then(|()| {
        let source = match (&options.target, &demo) {
            (Target::Console(address), _) => Source::console(address)?,
            (Target::Server(address), _) => Source::server(address)?,
            (Target::Demo, demo) => Source::console(demo.as_ref().map_or("", Demo::address))?,
        };
        if options.once { once(source, options.json) } else { watch(source, options) }
    });
    if let Some(demo) = demo {
        demo.stop();
    }
    result
}

fn once(mut source: Source, json: bool) -> Result<(), String> {
    let reading = source.read()?;
    let text = if json {
        reading.raw
    } else {
        let mut model = Model::new(source.address());
        model.update(Ok(reading.view));
        plain::page(&model)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot print: {error}")),
        _ => Ok(()),
    }
}

fn watch(mut source: Source, options: &Options) -> Result<(), String> {
    // What is wrong from the beginning is said without a screen.
    let mut model = Model::new(source.address());
    model.update(Ok(source.read()?.view));
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err("this is no terminal: use --once, or --once --json in scripts".to_owned());
    }
    terminal::watch(source, model, options.interval, screen::draw)
}
