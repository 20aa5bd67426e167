//! A method whose result cannot be sent to another process.
use forkpool::prelude::*;

struct Crypted(String);

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash(&mut self, plaintext: String) -> Result<Crypted, Failure> {
        Ok(Crypted(plaintext))
    }
}

forkpool::boot!(Hasher);

fn main() {}
