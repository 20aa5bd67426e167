//! What `password_server` runs and `password_client` calls: both have to know its methods.

use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// Where the two meet unless they are told otherwise.
pub const ADDRESS: &str = "unix:/tmp/forkpool-passwords.sock";

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

#[derive(Serialize, Deserialize, Worker)]
#[worker(config = Self)]
pub struct Hasher {
    pub cost: u32,
}

#[forkpool::methods]
impl Hasher {
    /// Hashes a password.
    pub fn hash(&mut self, plaintext: &str) -> Result<String, HashError> {
        if plaintext.is_empty() {
            return Err(HashError::Empty);
        }
        Ok(bcrypt::hash(plaintext, self.cost)?)
    }

    /// Returns whether the password is this one.
    pub fn verify(&mut self, crypted: &str, plaintext: &str) -> Result<bool, HashError> {
        Ok(bcrypt::verify(plaintext, crypted)?)
    }
}
