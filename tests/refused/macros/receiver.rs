use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash(self, plaintext: String) -> Result<String, Failure> {
        Ok(plaintext)
    }

    fn verify(self: &mut Self, crypted: &str) -> Result<bool, Failure> {
        Ok(crypted.is_empty())
    }

    fn rounds() -> Result<u32, Failure> {
        Ok(1)
    }

    const ROUNDS: u32 = 1;
}

forkpool::boot!(Hasher);

fn main() {}
