//! A socket at which an application shows its pools, to viewers such as `examples/forkpool_top`.
//!
//! A viewer asks, and is answered with what snapshots have. All of it runs on a thread of the library's own that does
//! nothing else, so neither the application nor the supervision of workers waits for a viewer.

mod error;
mod protocol;
mod serving;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::api::pool_handle::PoolHandle;
use super::scheduler::Scheduler;
use super::scheduler::ending::WatchesEnd;
use super::telemetry::teller::Teller;
use super::threads;
use super::worker_api::worker::Worker;
use crate::address::Address;
use crate::config::OptionError;
use crate::server::viewers;
use crate::server::viewers::OwnPath;
pub use error::ConsoleError;

/// Viewers that may be connected at a time, if the option is not set.
const DEFAULT_MAX_CLIENTS: usize = 8;

/// How long a viewer may neither ask nor take its answer, if the option is not set (60 s): longer than the pauses of any
/// viewer that asks on its own.
const DEFAULT_CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The options of a console. [`PoolHandle::console`](crate::PoolHandle::console) makes them.
#[must_use = "a console is opened by `open`"]
pub struct ConsoleBuilder {
    address: String,
    mode: u32,
    max_clients: usize,
    client_timeout: Duration,
    pools: Vec<Arc<Scheduler>>,
}

impl ConsoleBuilder {
    pub(super) fn new(address: String) -> Self {
        ConsoleBuilder {
            address,
            mode: 0o600,
            max_clients: DEFAULT_MAX_CLIENTS,
            client_timeout: DEFAULT_CLIENT_TIMEOUT,
            pools: Vec::new(),
        }
    }

    /// Shows this pool as well. A pool that was added before is not added again.
    #[expect(clippy::should_implement_trait, reason = "a pool is no operand")]
    pub fn add<W: Worker>(mut self, pool: &PoolHandle<W>) -> Self {
        if !self.pools.iter().any(|known| Arc::ptr_eq(known, pool.scheduler())) {
            self.pools.push(pool.scheduler().clone());
        }
        self
    }

    /// Sets the mode of the socket: `0o600`, or `0o660`, which lets members of this process's group look as well. Default:
    /// `0o600`.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets how many viewers may be connected at a time. The next one gets a line that says so, and is disconnected.
    /// Default: 8.
    pub fn max_clients(mut self, count: usize) -> Self {
        self.max_clients = count;
        self
    }

    /// Sets how long a viewer may neither ask nor take its answer; it is disconnected then. Default: 60 s.
    pub fn client_timeout(mut self, limit: Duration) -> Self {
        self.client_timeout = limit;
        self
    }

    /// Opens the console. It ends with the last of its pools, and the socket is removed before
    /// [`stop`](crate::PoolHandle::stop) of that pool resolves. The handle need not be kept.
    ///
    /// It works on any thread, with or without a runtime. A lock file with the name of the socket and `.lock` stands beside
    /// it, and stays.
    ///
    /// # Errors
    ///
    /// - [`ConsoleError::Option`] for an option whose value cannot work.
    /// - [`ConsoleError::Address`] for an invalid address, and [`ConsoleError::NotUnix`] for one of a port.
    /// - [`ConsoleError::Taken`] if a process listens at the path, and [`ConsoleError::Occupied`] if something else than
    ///   the socket of a dead process is there.
    /// - [`ConsoleError::Io`] and [`ConsoleError::Thread`] for what the system refuses.
    /// - [`ConsoleError::Ended`] if all pools have ended.
    pub fn open(self) -> Result<Console, ConsoleError> {
        self.validate()?;
        let Address::Unix(path) = Address::parse(&self.address)? else {
            return Err(ConsoleError::NotUnix { address: self.address });
        };
        let Some(teller) = self.pools.first().map(|pool| pool.teller.clone()) else {
            return Err(ConsoleError::Ended);
        };
        let own = threads::viewers().map_err(ConsoleError::Thread)?;
        let (listener, own_path) = viewers::listen(&path, self.mode == 0o660)
            .map_err(|error| ConsoleError::of_socket(path.clone(), error))?;
        let (ended, end) = oneshot::channel();
        let shared = Arc::new(Shared {
            address: self.address,
            path,
            max_clients: self.max_clients,
            client_timeout: self.client_timeout,
            teller,
            state: Mutex::new(State { pools: Vec::new(), open: Some(Open { own_path, _ended: ended }) }),
        });
        let shown = self.pools.iter().filter(|pool| shared.show(pool)).count();
        if shown == 0 {
            shared.close();
            return Err(ConsoleError::Ended);
        }
        serving::start(own, shared.clone(), listener, end);
        Ok(Console { shared })
    }

    fn validate(&self) -> Result<(), OptionError> {
        if ![0o600, 0o660].contains(&self.mode) {
            let value = format!("0o{:o}", self.mode);
            return Err(OptionError::new(
                "mode",
                value,
                "it must be 0o600, or 0o660 for this process's group",
            ));
        }
        if self.max_clients == 0 {
            return Err(OptionError::new("max_clients", "0".to_owned(), "it must be at least 1"));
        }
        if self.client_timeout.is_zero() {
            return Err(OptionError::new("client_timeout", "0ns".to_owned(), "it must be longer than zero"));
        }
        Ok(())
    }
}

impl fmt::Debug for ConsoleBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools: Vec<&str> = self.pools.iter().map(|pool| pool.options.name.as_str()).collect();
        f.debug_struct("ConsoleBuilder")
            .field("address", &self.address)
            .field("mode", &format_args!("0o{:o}", self.mode))
            .field("max_clients", &self.max_clients)
            .field("client_timeout", &self.client_timeout)
            .field("pools", &pools)
            .finish()
    }
}

/// A console that was opened: a socket at which viewers ask what pools do. It is a cheap handle; the console goes on when
/// the last clone is dropped, and ends with its last pool.
///
/// A viewer sends lines of at most 4 KiB, each a JSON object, and gets one line for each: `{"ask":"snapshot"}` is answered
/// with the [`Snapshot`](crate::Snapshot) of each pool, and `{"ask":"failures","since":7}` with the last failures whose
/// number is above 7. A viewer may ask again after fifty times as long as its answer took to make, so viewers cost at most
/// a part of one processor. It keeps no pool running.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

impl Console {
    /// Returns the address as it was given.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Shows this pool as well. Returns whether it is shown: `false` once the pool or the console has ended.
    pub fn add<W: Worker>(&self, pool: &PoolHandle<W>) -> bool {
        self.shared.show(pool.scheduler())
    }

    /// Ends the console: the socket is removed and viewers are disconnected. It does nothing to a console that has ended.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

/// What a console is, for its handles and the task that serves it.
struct Shared {
    address: String,
    path: PathBuf,
    max_clients: usize,
    client_timeout: Duration,
    /// Tells the subscriber of the first pool.
    teller: Teller,
    state: Mutex<State>,
}

struct State {
    pools: Vec<Weak<Scheduler>>,
    /// `None` once it has ended.
    open: Option<Open>,
}

/// What a console has while it is open.
struct Open {
    own_path: OwnPath,
    /// Dropping it ends the task.
    _ended: oneshot::Sender<()>,
}

impl Shared {
    /// Returns whether this pool is shown.
    fn show(self: &Arc<Self>, pool: &Arc<Scheduler>) -> bool {
        {
            let mut state = self.state.lock();
            let (is_open, pool) = (state.open.is_some(), Arc::downgrade(pool));
            if !is_open || state.pools.iter().any(|known| known.ptr_eq(&pool)) {
                return is_open;
            }
            state.pools.push(pool);
        }
        let watcher: Weak<dyn WatchesEnd> = Arc::downgrade(&(self.clone() as Arc<dyn WatchesEnd>));
        let is_shown = pool.watch_end(watcher);
        if !is_shown {
            self.pool_ended(pool);
        }
        is_shown
    }

    /// Returns the pools that have not ended.
    fn pools(&self) -> Vec<Arc<Scheduler>> {
        self.state.lock().pools.iter().filter_map(Weak::upgrade).collect()
    }

    fn close(&self) {
        let open = self.state.lock().open.take();
        if let Some(Open { own_path, .. }) = open {
            own_path.give_up();
        }
    }
}

impl WatchesEnd for Shared {
    fn pool_ended(&self, pool: &Scheduler) {
        let is_last = {
            let mut state = self.state.lock();
            state.pools.retain(|known| !std::ptr::eq(known.as_ptr(), pool));
            state.pools.is_empty()
        };
        if is_last {
            self.close();
        }
    }
}
