//! What a console tells, as far as it is shown. What a line of another version lacks is empty.

use serde::Deserialize;

/// What is watched, at one moment.
#[derive(Clone, Debug)]
pub enum View {
    Application(Application),
    Server(forkpool::ServerStats),
}

/// The answer of a console.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Application {
    pub error: Option<String>,
    pub pid: u32,
    pub version: String,
    pub pools: Vec<Pool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pool {
    pub pool: String,
    pub status: Option<String>,
    pub uptime: f64,
    pub workers: Vec<Worker>,
    pub counts: Counts,
    pub limits: Limits,
    pub queue: Queue,
    pub paused: bool,
    pub totals: Totals,
    pub calls: Vec<Call>,
    pub failures: Vec<Failure>,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Worker {
    pub number: u64,
    pub pid: u32,
    pub state: String,
    pub age: f64,
    pub checkouts: u64,
    pub calls: u64,
    pub call: Option<String>,
    pub running_for: Option<f64>,
    pub private_bytes: Option<u64>,
    pub cpu_time: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub starting: usize,
    pub idle: usize,
    pub leased: usize,
    pub ending: usize,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub min_workers: usize,
    pub max_workers: usize,
    pub max_waiting: Option<usize>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Queue {
    pub length: usize,
    pub oldest: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub forked: u64,
    pub checkouts: u64,
    pub server_starts: u64,
    pub quarantined: u64,
    pub ends: Vec<(String, u64)>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Call {
    pub name: String,
    pub succeeded: u64,
    pub errors: u64,
    pub failures: Vec<(String, u64)>,
    pub run: Times,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Times {
    pub count: u64,
    pub sum: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Failure {
    pub number: u64,
    /// Seconds since the beginning of 1970.
    pub at: f64,
    pub kind: String,
    pub call: Option<String>,
    pub text: String,
    pub worker: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Server {
    pub pid: Option<u32>,
    pub outage: Option<String>,
}

impl Call {
    /// Calls that were answered with a failure.
    pub fn failed(&self) -> u64 {
        self.failures.iter().map(|(_, count)| count).sum()
    }

    pub fn answered(&self) -> u64 {
        self.succeeded + self.errors + self.failed()
    }
}

impl Pool {
    pub fn answered(&self) -> u64 {
        self.calls.iter().map(Call::answered).sum()
    }

    /// Workers that have ended.
    pub fn ended(&self) -> u64 {
        self.totals.ends.iter().map(|(_, count)| count).sum()
    }
}
