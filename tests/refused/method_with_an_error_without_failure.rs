//! A method whose error cannot carry a failure.
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct HashError;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash(&mut self, plaintext: String) -> Result<String, HashError> {
        Ok(plaintext)
    }
}

forkpool::boot!(Hasher);

fn main() {}
