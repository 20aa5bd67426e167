//! Calls and their answers.
mod harness;

use forkpool::prelude::*;
use harness::*;

/// C4
#[test]
fn a_message_to_the_pool_is_answered_by_a_worker() {
    run(async {
        let pool = pool_of_one();
        let answer = pool.send(EchoText("hello".to_owned())).await.expect("an answer");
        assert_eq!(answer, Ok("hello".to_owned()));
        let failure = pool.send(Fail("no".to_owned())).await.expect("an answer").unwrap_err();
        assert_eq!((failure.kind(), failure.to_string()), (FailureKind::Task, "no".to_owned()));
        pool.stop(std::time::Duration::ZERO).await;
        assert!(servers().is_empty());
    });
}
