//! What `password_server` runs and `password_client` calls: both have to know the messages.

use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// Where the two meet unless they are told otherwise.
pub const ADDRESS: &str = "unix:/tmp/forkpool-passwords.sock";

#[derive(actix::Message, Serialize, Deserialize)]
#[rtype(result = "Result<String, HashError>")]
pub struct Hash {
    pub plaintext: String,
}

#[derive(actix::Message, Serialize, Deserialize)]
#[rtype(result = "Result<bool, HashError>")]
pub struct Verify {
    pub crypted: String,
    pub plaintext: String,
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum HashError {
    #[error("the password is empty")]
    Empty,
    #[error("bcrypt: {0}")]
    Bcrypt(String),
    #[error(transparent)]
    Worker(#[from] Failure),
}

impl From<bcrypt::BcryptError> for HashError {
    fn from(error: bcrypt::BcryptError) -> Self {
        HashError::Bcrypt(error.to_string())
    }
}

pub struct Hasher {
    cost: u32,
}

impl actix::Actor for Hasher {
    type Context = WorkerContext<Self>;
}

impl Worker for Hasher {
    type Config = u32;

    fn setup(cost: u32, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Hasher { cost })
    }
}

impl actix::Handler<Hash> for Hasher {
    type Result = Result<String, HashError>;

    fn handle(&mut self, Hash { plaintext }: Hash, _: &mut WorkerContext<Self>) -> Self::Result {
        if plaintext.is_empty() {
            return Err(HashError::Empty);
        }
        Ok(bcrypt::hash(plaintext, self.cost)?)
    }
}

impl actix::Handler<Verify> for Hasher {
    type Result = Result<bool, HashError>;

    fn handle(&mut self, msg: Verify, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(bcrypt::verify(msg.plaintext, &msg.crypted)?)
    }
}

forkpool::interface!(Hasher { Hash, Verify });
