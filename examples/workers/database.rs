//! What `sqlite_server` runs and `sqlite_client` calls: both have to know the messages.

use std::path::PathBuf;
use std::time::Duration;

use forkpool::prelude::*;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

/// Where the two meet unless they are told otherwise.
pub const ADDRESS: &str = "unix:/tmp/forkpool-sqlite.sock";

/// Runs one statement; the answer is how many rows it changed.
#[derive(actix::Message, Serialize, Deserialize)]
#[rtype(result = "Result<usize, SqlError>")]
pub struct Execute {
    pub sql: String,
    pub values: Vec<Value>,
}

/// Runs one query; the answer is its rows.
#[derive(actix::Message, Serialize, Deserialize)]
#[rtype(result = "Result<Vec<Vec<Value>>, SqlError>")]
pub struct Query {
    pub sql: String,
    pub values: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum SqlError {
    #[error("sqlite: {0}")]
    Sqlite(String),
    #[error(transparent)]
    Worker(#[from] Failure),
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        SqlError::Sqlite(error.to_string())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Integer(number),
            ValueRef::Real(number) => Value::Real(number),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A worker with a connection of its own.
pub struct Database {
    connection: rusqlite::Connection,
}

impl actix::Actor for Database {
    type Context = WorkerContext<Self>;
}

impl Worker for Database {
    type Config = PathBuf;

    fn setup(file: PathBuf, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        let connection = rusqlite::Connection::open(file)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Database { connection })
    }

    /// Whatever its last holder left open ends here.
    fn checkout_done(&mut self, _: &mut WorkerContext<Self>) {
        if !self.connection.is_autocommit() {
            // A worker that cannot be cleaned is replaced.
            self.connection.execute_batch("ROLLBACK").expect("a transaction can be rolled back");
        }
    }
}

impl actix::Handler<Execute> for Database {
    type Result = Result<usize, SqlError>;

    fn handle(&mut self, Execute { sql, values }: Execute, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(self.connection.execute(&sql, rusqlite::params_from_iter(values))?)
    }
}

impl actix::Handler<Query> for Database {
    type Result = Result<Vec<Vec<Value>>, SqlError>;

    fn handle(&mut self, Query { sql, values }: Query, _: &mut WorkerContext<Self>) -> Self::Result {
        let mut query = self.connection.prepare_cached(&sql)?;
        let columns = query.column_count();
        let rows = query.query_map(rusqlite::params_from_iter(values), |row| {
            (0..columns).map(|column| Ok(row.get_ref(column)?.into())).collect()
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

forkpool::interface!(Database { Execute, Query });
