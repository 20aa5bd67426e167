//! What docs/METHODS.md shows, as a program that runs.

use std::time::Duration;

// shown: worker
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum HashError {
    #[error("the password is empty")]
    Empty,
    #[error(transparent)]
    Worker(#[from] Failure),
}

/// Its own configuration: `Pool::<Hasher>::builder(Hasher { rounds: 100_000 })`.
#[derive(Serialize, Deserialize, Worker)]
#[worker(config = Self)]
pub struct Hasher {
    pub rounds: u32,
}

#[forkpool::methods]
impl Hasher {
    /// Hashes a password.
    pub fn hash(&mut self, plaintext: &str) -> Result<String, HashError> {
        if plaintext.is_empty() {
            return Err(HashError::Empty);
        }
        Ok(self.hashed(plaintext))
    }

    /// Returns whether the password is this one.
    pub fn verify(
        &mut self,
        crypted: &str,
        plaintext: &str,
        ctx: &mut WorkerContext<Self>,
    ) -> Result<bool, HashError> {
        ctx.log().info("a password is verified");
        Ok(self.hashed(plaintext) == crypted)
    }
}

/// What is no call has a block of its own.
impl Hasher {
    fn hashed(&self, plaintext: &str) -> String {
        // Stands in for bcrypt, argon2 or other work that keeps a processor busy.
        let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let sum = (0..self.rounds).fold(0xcbf2_9ce4_8422_2325, |sum, _| plaintext.bytes().fold(sum, step));
        format!("{sum:016x}")
    }
}

forkpool::boot!(Hasher);
// end: worker

// shown: calls
async fn calls(pool: &PoolHandle<Hasher>) -> Result<(), HashError> {
    let crypted = pool.hash("secret").await?; // on any free worker
    let checkout = pool.checkout().open(); // one worker, until the handle is dropped
    assert!(checkout.verify(&crypted, "secret").await?);
    let address = pool.checkout().start(); // the same as an actor, for several threads
    assert!(!address.verify(&crypted, "guess").await?);
    Ok(())
}
// end: calls

// shown: generic
async fn sign_up(hasher: &impl HasherCalls, password: &str) -> Result<String, HashError> {
    hasher.hash(password).await
}
// end: generic

async fn messages(pool: &PoolHandle<Hasher>) -> Result<(), HashError> {
    // shown: messages
    let limited = pool.send_within(Duration::from_secs(1), hasher::Hash::new("secret")).await?;
    let many = ["secret", "guess"].map(hasher::Hash::new);
    let crypted: Vec<Result<String, HashError>> = pool.send_batch(many.into()).await;
    // end: messages
    assert_eq!(crypted.into_iter().next().transpose()?, Some(limited));
    Ok(())
}

mod functions {
    use forkpool::prelude::*;

    // shown: functions
    #[forkpool::function]
    fn strength(password: &str) -> Result<usize, Failure> {
        Ok(password.chars().filter(|char| !char.is_alphabetic()).count())
    }

    forkpool::functions!(pub Checks { strength }); // as many as are to run in these workers
    forkpool::boot!(Checks);

    pub async fn is_strong(pool: &PoolHandle<Checks>, password: &str) -> Result<bool, Failure> {
        Ok(pool.call(strength::with(password)).await? > 2)
    }
    // end: functions
}

/// What the macros make, written by hand.
mod by_hand {
    use super::HashError;
    // shown: by hand
    use actix::prelude::*;
    use forkpool::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    pub struct Hasher {
        pub rounds: u32,
    }

    impl Actor for Hasher {
        type Context = WorkerContext<Self>;
    }

    impl Worker for Hasher {
        type Config = Self;

        fn setup(config: Self, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
            Ok(config)
        }
    }

    /// Hashes a password.
    #[derive(Message, Serialize, Deserialize)]
    #[rtype(result = "Result<String, HashError>")]
    pub struct Hash {
        pub plaintext: String,
    }

    impl Handler<Hash> for Hasher {
        type Result = Result<String, HashError>;

        fn handle(&mut self, Hash { plaintext }: Hash, _: &mut WorkerContext<Self>) -> Self::Result {
            self.hash(&plaintext)
        }
    }

    forkpool::interface!(Hasher { Hash });

    /// The methods of `Hasher`, called on a pool, a class, a checkout or the address of a checkout.
    pub trait HasherCalls: Calls<Hasher> {
        /// Hashes a password.
        #[track_caller]
        fn hash(&self, plaintext: &str) -> Self::Call<Hash> {
            self.call(Hash { plaintext: plaintext.to_owned() })
        }
    }

    impl<C: Calls<Hasher>> HasherCalls for C {}
    // end: by hand

    impl Hasher {
        fn hash(&mut self, plaintext: &str) -> Result<String, HashError> {
            super::Hasher { rounds: self.rounds }.hash(plaintext)
        }
    }

    forkpool::boot!(Hasher);
}

#[actix::test]
async fn what_the_page_shows_runs() {
    let pool =
        Pool::<Hasher>::builder(Hasher { rounds: 10 }).workers(1..=3).start().expect("the pool starts");
    calls(&pool).await.expect("the calls succeed");
    messages(&pool).await.expect("the messages are answered");
    let crypted = sign_up(&pool, "secret").await.expect("a hash");
    assert!(matches!(pool.hash("").await, Err(HashError::Empty)));
    pool.stop(Duration::ZERO).await;

    let pool = Pool::<functions::Checks>::builder(()).workers(1..=1).start().expect("the pool starts");
    assert!(!functions::is_strong(&pool, "secret").await.expect("an answer"));
    pool.stop(Duration::ZERO).await;

    use by_hand::HasherCalls as _;
    let config = by_hand::Hasher { rounds: 10 };
    let pool = Pool::<by_hand::Hasher>::builder(config).workers(1..=1).start().expect("the pool starts");
    assert_eq!(pool.hash("secret").await.expect("a hash"), crypted);
    pool.stop(Duration::ZERO).await;
}
