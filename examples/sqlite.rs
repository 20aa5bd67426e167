//! A transaction over several calls: its caller has one worker, and so one connection, to itself.
//!
//! A caller that gives up in the middle leaves nothing behind: `checkout_done` rolls back.
//!
//! ```sh
//! cargo run --example sqlite
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use rusqlite::{Connection, ErrorCode};
use serde::{Deserialize, Serialize};

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), SqlError>")]
struct Begin;

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), SqlError>")]
struct Insert {
    name: String,
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), SqlError>")]
struct Commit;

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<Vec<String>, SqlError>")]
struct Names;

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum SqlError {
    #[error("it is there already ({0})")]
    Constraint(String),
    #[error("sqlite: {0}")]
    Other(String),
    #[error(transparent)]
    Worker(#[from] Failure),
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => SqlError::Constraint(error.to_string()),
            _ => SqlError::Other(error.to_string()),
        }
    }
}

struct Sqlite {
    connection: Connection,
}

impl Actor for Sqlite {
    type Context = WorkerContext<Self>;
}

impl Worker for Sqlite {
    type Config = PathBuf;

    /// Every worker opens a connection of its own, once. `?` takes any error.
    fn setup(file: PathBuf, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        let connection = Connection::open(file)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS people (name TEXT NOT NULL UNIQUE)")?;
        Ok(Sqlite { connection })
    }

    /// Whatever the last caller left open ends here, before the next one gets this worker.
    fn checkout_done(&mut self, _: &mut WorkerContext<Self>) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            // A worker that cannot be cleaned is replaced.
            panic!("the transaction cannot be rolled back: {error}");
        }
    }
}

impl Handler<Begin> for Sqlite {
    type Result = Result<(), SqlError>;

    fn handle(&mut self, Begin: Begin, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(self.connection.execute_batch("BEGIN IMMEDIATE")?)
    }
}

impl Handler<Insert> for Sqlite {
    type Result = Result<(), SqlError>;

    fn handle(&mut self, Insert { name }: Insert, _: &mut WorkerContext<Self>) -> Self::Result {
        self.connection.execute("INSERT INTO people (name) VALUES (?1)", [name])?;
        Ok(())
    }
}

impl Handler<Commit> for Sqlite {
    type Result = Result<(), SqlError>;

    fn handle(&mut self, Commit: Commit, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(self.connection.execute_batch("COMMIT")?)
    }
}

impl Handler<Names> for Sqlite {
    type Result = Result<Vec<String>, SqlError>;

    fn handle(&mut self, Names: Names, _: &mut WorkerContext<Self>) -> Self::Result {
        let mut query = self.connection.prepare_cached("SELECT name FROM people ORDER BY rowid")?;
        let names = query.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }
}

forkpool::interface!(Sqlite { Begin, Insert, Commit, Names });
forkpool::boot!(Sqlite);

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("forkpool-sqlite-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let outcome = transactions(&folder.join("people.db")).await;
    std::fs::remove_dir_all(&folder)?;
    outcome
}

async fn transactions(file: &Path) -> Result<(), Box<dyn Error>> {
    // One worker only, so that every caller below gets the connection that the one before it had.
    let pool = Pool::<Sqlite>::builder(file.to_owned()).workers(1..=1).start()?;

    commit(&pool).await?;
    println!("committed:            {:?}", pool.send(Names).await?);

    give_up(&pool).await?;
    println!("after one gave up:    {:?}", pool.send(Names).await?);

    go_on_after_an_error(&pool).await?;
    println!("after an error:       {:?}", pool.send(Names).await?);

    println!("workers forked: {} (the one that saw an error was replaced)", pool.stats().forked);
    pool.stop(Duration::from_secs(1)).await;
    Ok(())
}

async fn commit(pool: &PoolHandle<Sqlite>) -> Result<(), Box<dyn Error>> {
    let checkout = pool.checkout().start();
    checkout.send(Begin).await??;
    checkout.send(Insert { name: "Ada".into() }).await??;
    checkout.send(Insert { name: "Grace".into() }).await??;
    checkout.send(Commit).await??;
    Ok(())
}

async fn give_up(pool: &PoolHandle<Sqlite>) -> Result<(), Box<dyn Error>> {
    let checkout = pool.checkout().start();
    checkout.send(Begin).await??;
    checkout.send(Insert { name: "Mallory".into() }).await??;
    println!("within a transaction: {:?}", checkout.send(Names).await??);
    // No Commit: the checkout is dropped here, as it would be by an early `?`.
    Ok(())
}

async fn go_on_after_an_error(pool: &PoolHandle<Sqlite>) -> Result<(), Box<dyn Error>> {
    let checkout = pool.checkout().start();
    checkout.send(Begin).await??;
    // The handler's error comes as the type it was returned with, and the transaction is still open.
    match checkout.send(Insert { name: "Ada".into() }).await? {
        Err(SqlError::Constraint(text)) => println!("Ada a second time:    {text}"),
        Err(error) => return Err(error.into()),
        Ok(()) => return Err("Ada is there twice".into()),
    }
    checkout.send(Insert { name: "Barbara".into() }).await??;
    checkout.send(Commit).await??;
    Ok(())
}
