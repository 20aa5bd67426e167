//! Real pools of workers whose calls are methods.

use forkpool::prelude::*;

#[derive(Worker)]
struct Greeter;

#[forkpool::methods]
impl Greeter {
    /// Greets by name.
    fn greet(&mut self, name: &str) -> Result<String, Failure> {
        Ok(format!("hello {name}"))
    }
}

forkpool::boot!(Greeter);

#[actix::test]
async fn first() {
    let pool = Pool::<Greeter>::builder(()).workers(1..=1).start().expect("the pool starts");
    assert_eq!(pool.greet("Ada").await.expect("an answer"), "hello Ada");
}
