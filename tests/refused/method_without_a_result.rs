//! A method that answers no `Result`, under a name that the macro cannot know.
use forkpool::prelude::*;

type Crypted = String;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash(&mut self, plaintext: String) -> Crypted {
        plaintext
    }
}

forkpool::boot!(Hasher);

fn main() {}
