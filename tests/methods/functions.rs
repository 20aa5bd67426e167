//! Real pools of workers for functions.

use std::time::Duration;

use forkpool::prelude::*;

/// Adds numbers.
#[forkpool::function]
fn add(a: u32, b: u32) -> Result<u32, Failure> {
    a.checked_add(b).ok_or_else(|| Failure::task("too large"))
}

#[forkpool::function]
fn process() -> Result<u32, Failure> {
    Ok(std::process::id())
}

mod texts {
    use super::Failure;

    #[forkpool::function]
    pub(super) fn joined(texts: &[String], with: &str) -> Result<String, Failure> {
        Ok(texts.join(with))
    }
}

use texts::joined;

forkpool::functions!(
    /// All that is called here.
    Tools { add, process, texts::joined }
);
forkpool::boot!(Tools);

#[actix::test]
async fn functions_run_in_another_process() {
    let pool = Pool::<Tools>::builder(()).workers(1..=2).start().expect("the pool starts");
    assert_eq!(pool.call(add::with(1, 2)).await.expect("a sum"), 3);
    assert_eq!(add(1, 2).expect("a sum"), 3);
    let failure = pool.call(add::with(u32::MAX, 1)).await.unwrap_err();
    assert!(failure.kind() == FailureKind::Task && failure.to_string().contains("too large"), "{failure}");
    assert_ne!(pool.call(process::with()).await.expect("a number"), std::process::id());
    let checkout = pool.checkout().open();
    let texts = ["a", "b"].map(str::to_owned);
    assert_eq!(checkout.call(joined::with(&texts, ", ")).await.expect("a text"), "a, b");
    let batch = pool.send_batch(vec![add::with(1, 1), add::Add { a: 2, b: 2 }]).await;
    assert_eq!(batch.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [2, 4]);
    drop(checkout);
    pool.stop(Duration::ZERO).await;
}
