use std::collections::HashMap;

use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash(&mut self, plaintext: &str) -> Result<String, Failure> {
        let rounds: u32 = plaintext;
        Ok("#".repeat(rounds as usize))
    }
}

#[forkpool::function]
fn length(text: &str) -> Result<usize, Failure> {
    Ok(text.lenght())
}

forkpool::functions!(Lengths { length });
forkpool::boot!(Hasher);

fn main() {}
