use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn stop(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn hash(&mut self, plaintext: String) -> Result<String, Failure> {
        Ok(plaintext)
    }
}

async fn hashed(pool: &PoolHandle<Hasher>) -> Result<String, Failure> {
    // The other methods are there nevertheless.
    pool.hash("secret".into()).await
}

forkpool::boot!(Hasher);

fn main() {}
