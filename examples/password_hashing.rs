//! Passwords are hashed in worker processes, so bcrypt never holds up the event loop.
//!
//! ```sh
//! cargo run --example password_hashing             # hash, verify, and some figures
//! cargo run --example password_hashing -- --chaos  # and then workers panic, exit, are killed and hang
//! ```

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::error::Error;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::clock::sleep;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Mischief {
    Panic,
    Exit,
    Hang,
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum HashError {
    #[error("the password is empty")]
    Empty,
    #[error("bcrypt: {0}")]
    Bcrypt(String),
    /// How a panic, a death or a timeout reaches the caller.
    #[error(transparent)]
    Worker(#[from] Failure),
}

impl From<bcrypt::BcryptError> for HashError {
    fn from(error: bcrypt::BcryptError) -> Self {
        HashError::Bcrypt(error.to_string())
    }
}

/// Its own configuration: each worker begins as a copy of what the pool is started with.
#[derive(Serialize, Deserialize, Worker)]
#[worker(config = Self)]
struct Hasher {
    cost: u32,
}

#[forkpool::methods]
impl Hasher {
    fn hash(&mut self, plaintext: &str) -> Result<String, HashError> {
        if plaintext.is_empty() {
            return Err(HashError::Empty);
        }
        Ok(bcrypt::hash(plaintext, self.cost)?)
    }

    fn verify(&mut self, crypted: &str, plaintext: &str) -> Result<bool, HashError> {
        Ok(bcrypt::verify(plaintext, crypted)?)
    }

    /// Returns the process id of the worker, so that it can be killed from outside.
    fn pid(&mut self) -> Result<u32, HashError> {
        Ok(std::process::id())
    }

    fn misbehave(&mut self, how: Mischief) -> Result<(), HashError> {
        match how {
            Mischief::Panic => panic!("no more salt"),
            Mischief::Exit => std::process::exit(3),
            Mischief::Hang => loop {
                std::hint::spin_loop();
            },
        }
    }
}

forkpool::boot!(Hasher);

#[actix::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let with_chaos = match arguments.as_slice() {
        [] => false,
        [option] if option == "--chaos" => true,
        _ => {
            eprintln!("unknown arguments: {}; the only option is --chaos", arguments.join(" "));
            return Ok(ExitCode::from(2));
        }
    };

    let cores = std::thread::available_parallelism()?.get();
    let pool = Pool::<Hasher>::builder(Hasher { cost: 10 }).workers(cores..=cores).start()?;

    hash_and_verify(&pool).await?;
    measure(&pool, cores).await?;
    if with_chaos {
        chaos(&pool).await?;
    }
    pool.stop(Duration::from_secs(1)).await;
    println!("stopped: {} workers are left", pool.stats().workers());
    Ok(ExitCode::SUCCESS)
}

/// Two calls on one checkout: both run in the same worker, which nobody else gets in between.
async fn hash_and_verify(pool: &PoolHandle<Hasher>) -> Result<(), Box<dyn Error>> {
    let checkout = pool.checkout().timeout(Duration::from_secs(5)).start();
    let crypted = checkout.hash("secret").await?;
    println!("hash:   {crypted}");
    for guess in ["secret", "Secret"] {
        let is_right = checkout.verify(&crypted, guess).await?;
        println!("verify: {guess:?} is {}", if is_right { "right" } else { "wrong" });
    }
    // The handler's own error, of the type it was returned with.
    if let Err(error) = checkout.hash("").await {
        println!("error:  {error}");
    }
    Ok(())
}

/// Twenty passwords one after the other, and all at once on whichever workers are free.
async fn measure(pool: &PoolHandle<Hasher>, cores: usize) -> Result<(), Box<dyn Error>> {
    let passwords = || (0..20).map(|number| format!("password {number}"));

    let longest_pause = Rc::new(Cell::new(Duration::ZERO));
    let ticker = actix::spawn(tick(longest_pause.clone()));

    let started = Instant::now();
    for password in passwords() {
        pool.hash(&password).await?;
    }
    let one_by_one = 20.0 / started.elapsed().as_secs_f64();

    let started = Instant::now();
    let requests: Vec<_> = passwords().map(|password| pool.hash(&password)).collect();
    for request in requests {
        request.await?;
    }
    let at_once = 20.0 / started.elapsed().as_secs_f64();
    ticker.abort();

    println!("20 passwords: {one_by_one:.1} hashes/s one by one, {at_once:.1}/s at once on {cores} workers");
    let pause = longest_pause.get();
    println!(
        "a hash takes {:.0} ms; the event loop never paused for longer than {pause:.1?}",
        1000.0 / one_by_one
    );
    Ok(())
}

async fn tick(longest_pause: Rc<Cell<Duration>>) {
    loop {
        let before = Instant::now();
        sleep(Duration::from_millis(1)).await;
        longest_pause.set(longest_pause.get().max(before.elapsed()));
    }
}

/// Every way to lose a worker costs one call; the next one finds another worker.
async fn chaos(pool: &PoolHandle<Hasher>) -> Result<(), Box<dyn Error>> {
    println!("\n--- a worker panics");
    failed_with(FailureKind::Panic, pool.misbehave(Mischief::Panic).await)?;
    still_hashes(pool).await?;

    println!("\n--- a worker exits");
    failed_with(FailureKind::Died, pool.misbehave(Mischief::Exit).await)?;
    still_hashes(pool).await?;

    println!("\n--- a worker is killed from outside, with one more call queued on its checkout");
    let checkout = pool.checkout().start();
    let pid = checkout.pid().await?;
    let running = checkout.hash("secret");
    let queued = checkout.hash("secret");
    sleep(Duration::from_millis(10)).await;
    kill(pid)?;
    failed_with(FailureKind::Died, running.await)?;
    failed_with(FailureKind::Cleared, queued.await)?;
    still_hashes(pool).await?;

    println!("\n--- a worker hangs");
    let checkout = pool.checkout().start();
    let hanging = checkout.send(Within(Duration::from_millis(200), hasher::Misbehave::new(Mischief::Hang)));
    failed_with(FailureKind::Timeout, hanging.await?)?;
    println!("the same checkout once more:");
    failed_with(FailureKind::Timeout, checkout.hash("secret").await)?;
    still_hashes(pool).await?;

    let stats = pool.stats();
    let failures: Vec<_> = stats.failures.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("\n{} workers were forked, {} are there now", stats.forked, stats.workers());
    println!(
        "of the calls {} succeeded, {} got the handler's own error; failures: {}",
        stats.succeeded,
        stats.errors,
        failures.join(", ")
    );
    Ok(())
}

fn kill(pid: u32) -> Result<(), Box<dyn Error>> {
    let pid = rustix::process::Pid::from_raw(pid.try_into()?).ok_or("no such process id")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

/// Prints a failure and the errors behind it; anything else ends this program.
fn failed_with<T>(expected: FailureKind, answer: Result<T, HashError>) -> Result<(), Box<dyn Error>> {
    match answer {
        Err(HashError::Worker(failure)) if failure.kind() == expected => {
            println!("{:<8} {failure}", failure.kind().to_string());
            let mut behind = failure.source();
            while let Some(error) = behind {
                println!("         because {error}");
                behind = error.source();
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err(format!("a call succeeded that should have failed: {expected}").into()),
    }
}

async fn still_hashes(pool: &PoolHandle<Hasher>) -> Result<(), Box<dyn Error>> {
    let crypted = pool.hash("secret").await?;
    println!("the next call: {crypted}");
    Ok(())
}
