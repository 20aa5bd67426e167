//! A fork server that is a program of its own.

use super::interface::Worker;
use crate::server::{self, Boot, ServerError};
use crate::wire::frame;

/// A fork server for workers of one type, to which applications connect their pools with
/// [`Pool::connect`](crate::Pool::connect).
///
/// ```no_run
/// # use actix::prelude::*;
/// # use forkpool::prelude::*;
/// # struct Hasher;
/// # impl Actor for Hasher { type Context = WorkerContext<Self>; }
/// # impl Worker for Hasher {
/// #     type Config = u32;
/// #     fn setup(_: u32, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> { Ok(Hasher) }
/// # }
/// # #[derive(Message, serde::Serialize, serde::Deserialize)]
/// # #[rtype(result = "Result<(), Failure>")]
/// # struct Hash;
/// # impl Handler<Hash> for Hasher {
/// #     type Result = Result<(), Failure>;
/// #     fn handle(&mut self, _: Hash, _: &mut WorkerContext<Self>) -> Self::Result { Ok(()) }
/// # }
/// # forkpool::interface!(Hasher { Hash });
/// # forkpool::boot!(Hasher);
/// fn main() -> Result<(), forkpool::ServerError> {
///     forkpool::Server::<Hasher>::new(12).listen("unix:/run/passwords.sock").run()
/// }
/// ```
pub struct Server<W: Worker> {
    config: W::Config,
    address: Option<String>,
}

impl<W: Worker> std::fmt::Debug for Server<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl<W: Worker> Server<W> {
    /// A server whose workers are set up with `config`.
    pub fn new(config: W::Config) -> Self {
        Server { config, address: None }
    }

    /// Where it listens: `unix:/path`. The socket there is for processes of the same user alone (mode 0600), one that a
    /// dead server has left is replaced, and a file beside it, of the same name with `.lock`, tells who is there.
    #[must_use = "a server serves once it runs"]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Runs the preload, then serves on this thread, which has to be the only one of its process, until SIGTERM or SIGINT
    /// ends it and its workers. A client that goes takes its workers with it.
    ///
    /// # Errors
    ///
    /// [`ServerError`]; a server that is there already is not disturbed.
    pub fn run(self) -> Result<(), ServerError> {
        let mut config = Vec::new();
        frame::encode(&mut config, &self.config, usize::MAX / 2).map_err(ServerError::Config)?;
        let address = self.address.ok_or(ServerError::NoAddress)?;
        server::serve(&W::PROGRAM, config, &address)
    }
}
