//! A method whose argument cannot be sent to another process.
use forkpool::prelude::*;

struct Password(String);

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash(&mut self, plaintext: Password) -> Result<String, Failure> {
        Ok(plaintext.0)
    }
}

forkpool::boot!(Hasher);

fn main() {}
