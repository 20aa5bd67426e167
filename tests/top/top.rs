//! The example `forkpool_top`, at terminals that this program makes.
//!
//! It contains the example, and executes itself as that: an example has no path of its own that a test could ask for.
#[path = "../../examples/forkpool_top/main.rs"]
mod forkpool_top;
#[path = "../harness/mod.rs"]
mod harness;
mod pty;
mod scripts;
mod terminals;

use std::process::{Command, ExitCode};

use forkpool::Server;
use forkpool_top::demo::Painter;

/// The variable that says what this program is in place of the tests.
const PLAY: &str = "FORKPOOL_TEST_TOP";

fn main() -> ExitCode {
    match std::env::var(PLAY).as_deref() {
        Ok("top") => forkpool_top::main(),
        Ok("panic") => panics_while_it_draws(),
        Ok("server") => serves(),
        _ => {
            harness::run_tests(&[scripts::TESTS, terminals::TESTS]);
            ExitCode::SUCCESS
        }
    }
}

/// This program in another part.
fn play(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(PLAY, part);
    command
}

/// Watches the console that is its argument, with a fault where it draws.
fn panics_while_it_draws() -> ExitCode {
    let address = std::env::args().nth(1).expect("an address");
    let source = forkpool_top::source::Source::console(&address).expect("a console");
    let model = forkpool_top::model::Model::new(&address);
    let shown = forkpool_top::terminal::watch(source, model, harness::PATIENCE, |_, _| panic!("cannot draw"));
    println!("not reached: {shown:?}");
    ExitCode::SUCCESS
}

/// A standalone server at the address that is its argument.
fn serves() -> ExitCode {
    let address = std::env::args().nth(1).expect("an address");
    Server::<Painter>::new(())
        .listen(address)
        .expect("an address")
        .run()
        .expect("it serves until it is stopped");
    ExitCode::SUCCESS
}
