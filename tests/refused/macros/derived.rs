use forkpool::prelude::*;

#[derive(Worker)]
enum Hasher {
    Slow,
}

#[derive(Worker)]
struct Verifier<T>(T);

#[derive(Worker)]
#[worker(setup = new)]
struct Greeter;

fn main() {}
