use forkpool::prelude::*;

struct Hasher<T>(T);

#[forkpool::methods]
impl<T> Hasher<T> {
    fn hash(&mut self) -> Result<String, Failure> {
        Ok(String::new())
    }
}

struct Verifier;

#[forkpool::methods]
impl Clone for Verifier {
    fn clone(&self) -> Self {
        Verifier
    }
}

fn main() {}
