use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash<T: ToString>(&mut self, plaintext: T) -> Result<String, Failure> {
        Ok(plaintext.to_string())
    }

    fn verify<'a>(&mut self, crypted: &'a str) -> Result<bool, Failure> {
        Ok(crypted.is_empty())
    }

    fn rehash(&mut self, crypted: impl ToString) -> Result<String, Failure> {
        Ok(crypted.to_string())
    }
}

forkpool::boot!(Hasher);

fn main() {}
