use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    async fn hash(&mut self, plaintext: String) -> Result<String, Failure> {
        Ok(plaintext)
    }
}

forkpool::boot!(Hasher);

fn main() {}
