//! What is shown: the last view, the rates between the last two, and what keys have changed.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::view::{Pool, View, Worker};

/// By what workers are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Number,
    Age,
    Processor,
    Memory,
    CallTime,
}

impl Order {
    pub fn name(self) -> &'static str {
        match self {
            Order::Number => "number",
            Order::Age => "age",
            Order::Processor => "processor",
            Order::Memory => "memory",
            Order::CallTime => "time of call",
        }
    }
}

/// Changes per second of one pool.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    pub answered: f64,
    pub failed: f64,
    pub forked: f64,
    /// Answers of each call, by its name.
    pub calls: BTreeMap<String, f64>,
    /// The part of a processor that each worker has used, by its number.
    pub processor: BTreeMap<u64, f64>,
}

pub struct Model {
    pub address: String,
    pub view: Option<View>,
    /// For each pool; `None` until it was seen twice.
    pub rates: Vec<Option<Rates>>,
    /// Why the last look has failed.
    pub trouble: Option<String>,
    pub shown_pool: usize,
    pub order: Order,
    pub is_inverted: bool,
    pub is_paused: bool,
    pub scrolled: usize,
    /// Forks per second of a standalone server.
    pub server_forks: Option<f64>,
}

impl Model {
    pub fn new(address: &str) -> Self {
        Model {
            address: address.to_owned(),
            view: None,
            rates: Vec::new(),
            trouble: None,
            shown_pool: 0,
            order: Order::default(),
            is_inverted: false,
            is_paused: false,
            scrolled: 0,
            server_forks: None,
        }
    }

    /// Takes what a look has come to. After one that failed, what was seen last stays.
    pub fn update(&mut self, look: Result<View, String>) {
        let view = match look {
            Ok(view) => view,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return;
            }
        };
        self.trouble = None;
        match (&self.view, &view) {
            (Some(View::Application(before)), View::Application(now)) if before.pid == now.pid => {
                self.rates = now
                    .pools
                    .iter()
                    .enumerate()
                    .map(|(at, pool)| rates(same_pool(&before.pools, &now.pools, at)?, pool))
                    .collect();
            }
            (Some(View::Server(before)), View::Server(now)) => {
                let seconds = now.uptime.as_secs_f64() - before.uptime.as_secs_f64();
                let is_same = before.pid == now.pid && seconds > 0.0;
                self.server_forks =
                    is_same.then(|| now.forked.saturating_sub(before.forked) as f64 / seconds);
            }
            _ => self.rates = Vec::new(),
        }
        self.view = Some(view);
        self.shown_pool = self.shown_pool.min(self.pools().len().saturating_sub(1));
    }

    pub fn pools(&self) -> &[Pool] {
        match &self.view {
            Some(View::Application(application)) => &application.pools,
            _ => &[],
        }
    }

    /// The pool that is shown, with its rates.
    pub fn pool(&self) -> Option<(&Pool, Option<&Rates>)> {
        let rates = self.rates.get(self.shown_pool).and_then(Option::as_ref);
        Some((self.pools().get(self.shown_pool)?, rates))
    }

    pub fn show_next_pool(&mut self) {
        self.shown_pool = (self.shown_pool + 1) % self.pools().len().max(1);
        self.scrolled = 0;
    }

    pub fn sort_by(&mut self, order: Order) {
        self.order = order;
        self.scrolled = 0;
    }

    /// Moves the first worker that is shown.
    pub fn scroll(&mut self, down: bool) {
        let last = self.pool().map_or(0, |(pool, _)| pool.workers.len().saturating_sub(1));
        self.scrolled = if down { (self.scrolled + 1).min(last) } else { self.scrolled.saturating_sub(1) };
    }

    /// The workers of the pool that is shown, in order: the largest first, but the smallest number.
    pub fn workers(&self) -> Vec<&Worker> {
        let Some((pool, rates)) = self.pool() else { return Vec::new() };
        let processor =
            |worker: &Worker| rates.and_then(|rates| rates.processor.get(&worker.number).copied());
        let mut workers: Vec<&Worker> = pool.workers.iter().collect();
        workers.sort_by(|one, other| {
            let descending =
                |one: Option<f64>, other: Option<f64>| other.partial_cmp(&one).unwrap_or(Ordering::Equal);
            let order = match self.order {
                Order::Number => one.number.cmp(&other.number),
                Order::Age => descending(Some(one.age), Some(other.age)),
                Order::Processor => descending(processor(one), processor(other)),
                Order::Memory => other.private_bytes.cmp(&one.private_bytes),
                Order::CallTime => descending(one.running_for, other.running_for),
            };
            let order = if self.is_inverted { order.reverse() } else { order };
            order.then(one.number.cmp(&other.number))
        });
        workers
    }
}

/// The pool of an earlier view that is the one at this place now: of the same name, and the same one of those.
fn same_pool<'a>(before: &'a [Pool], now: &[Pool], at: usize) -> Option<&'a Pool> {
    let name = &now[at].pool;
    let namesake = now[..at].iter().filter(|pool| pool.pool == *name).count();
    before.iter().filter(|pool| pool.pool == *name).nth(namesake)
}

/// `None` if no time has passed, or the pool is another one.
fn rates(before: &Pool, now: &Pool) -> Option<Rates> {
    let seconds = now.uptime - before.uptime;
    if seconds <= 0.0 {
        return None;
    }
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    let failed = |pool: &Pool| pool.calls.iter().map(|call| call.failed()).sum();
    let calls = now.calls.iter().map(|call| {
        let known = before.calls.iter().find(|known| known.name == call.name);
        (call.name.clone(), rate(known.map_or(0, |known| known.answered()), call.answered()))
    });
    let processor = now.workers.iter().filter_map(|worker| {
        let known = before.workers.iter().find(|known| known.number == worker.number)?;
        let used = (worker.cpu_time? - known.cpu_time?).max(0.0);
        Some((worker.number, used / seconds))
    });
    Some(Rates {
        answered: rate(before.answered(), now.answered()),
        failed: rate(failed(before), failed(now)),
        forked: rate(before.totals.forked, now.totals.forked),
        calls: calls.collect(),
        processor: processor.collect(),
    })
}
