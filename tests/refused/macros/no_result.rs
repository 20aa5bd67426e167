use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash(&mut self, plaintext: String) -> String {
        plaintext
    }

    fn forget(&mut self) {}
}

forkpool::boot!(Hasher);

fn main() {}
