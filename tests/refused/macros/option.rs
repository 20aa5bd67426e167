use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods(all)]
impl Hasher {
    fn hash(&mut self, plaintext: String) -> Result<String, Failure> {
        Ok(plaintext)
    }
}

fn main() {}
