use forkpool::prelude::*;

#[forkpool::function]
fn length(text: &str) -> usize {
    text.len()
}

#[forkpool::function]
fn log(text: &str, ctx: &mut WorkerContext<Logger>) -> Result<(), Failure> {
    ctx.log().info(text);
    Ok(())
}

#[forkpool::function(timeout = 5)]
fn nothing() -> Result<(), Failure> {
    Ok(())
}

mod other {
    use super::Failure;

    #[forkpool::function]
    pub(super) fn again() -> Result<(), Failure> {
        Ok(())
    }
}

#[forkpool::function]
fn again() -> Result<(), Failure> {
    Ok(())
}

forkpool::functions!(Logger {});
forkpool::functions!(Twice { again, other::again });

fn main() {}
