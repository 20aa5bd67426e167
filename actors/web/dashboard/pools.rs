//! What a dashboard shows of its pools, as JSON.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, HeaderName};
use actix_web::web::Bytes;
use serde::{Deserialize, Serialize};

use super::{Detail, page};
use crate::actors::api::snapshot::{FailureSummary, Snapshot};
use crate::actors::scheduler::Scheduler;
use crate::actors::threads::symbolizer;
use crate::actors::web::Pools;
use crate::clock::Instant;
use crate::failure::Failure;
use crate::wire::frame;

/// How old a snapshot may be that a viewer gets (900 ms): a little less than the time between two requests of one viewer, so
/// that its next one is another.
const MAX_AGE: Duration = Duration::from_millis(900);

/// Time between two questions of one viewer.
const PERIOD: Duration = Duration::from_secs(1);

/// The header that says in how many milliseconds a viewer is to ask again.
const ASK_AGAIN: &str = "x-forkpool-ask-again";

/// Longest dossier that is sent, in bytes (64 KiB): a text of a panic may have any length.
const MAX_DOSSIER: usize = 64 << 10;

/// A pool, and its name in paths.
pub(super) struct ShownPool {
    pub(super) key: String,
    pub(super) scheduler: Arc<Scheduler>,
}

/// The pools of a dashboard.
pub(super) struct ShownPools(Vec<ShownPool>);

impl ShownPools {
    pub(super) fn of(pools: &impl Pools) -> Self {
        let mut all = Vec::new();
        pools.add_to(&mut all);
        let mut keys = BTreeSet::new();
        let shown = all.into_iter().map(|pool| {
            let key = key_of(pool.name(), &keys);
            keys.insert(key.clone());
            ShownPool { key, scheduler: pool.into_scheduler() }
        });
        ShownPools(shown.collect())
    }

    pub(super) fn view(self, has_actions: bool, detail: Detail) -> View {
        View { pools: self.0, has_actions, detail, last: RefCell::default() }
    }
}

/// Returns the name in paths of a pool, which no other pool has.
fn key_of(name: &str, taken: &BTreeSet<String>) -> String {
    // Browsers take dots for the folder itself or the one above it.
    let name = if name.bytes().all(|byte| byte == b'.') { "pool" } else { name };
    let keys = std::iter::once(name.to_owned()).chain((2_u64..).map(|number| format!("{name}-{number}")));
    keys.into_iter().find(|key| !taken.contains(key)).unwrap_or_default()
}

/// What is shown of the pools.
pub(super) struct View {
    pools: Vec<ShownPool>,
    has_actions: bool,
    detail: Detail,
    last: RefCell<Option<Sent>>,
}

/// What was sent last, and the snapshots that it was made of.
struct Sent {
    snapshots: Vec<Arc<Snapshot>>,
    json: Bytes,
}

#[derive(Serialize)]
struct Overview<'a> {
    version: &'static str,
    actions: bool,
    dossiers: bool,
    pools: Vec<Keyed<'a, &'a Snapshot>>,
}

#[derive(Serialize)]
struct Keyed<'a, T> {
    key: &'a str,
    #[serde(flatten)]
    value: T,
}

/// What a request for failures asks for.
#[derive(Deserialize)]
pub(super) struct Asked {
    pool: Option<String>,
    since: Option<u64>,
}

#[derive(Serialize)]
struct Failures<'a> {
    pools: Vec<Keyed<'a, Listed>>,
}

#[derive(Serialize)]
struct Listed {
    failures: Vec<Dossier>,
}

#[derive(Serialize)]
struct Dossier {
    #[serde(flatten)]
    summary: FailureSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    dossier: Option<String>,
}

impl View {
    pub(super) fn pool(&self, key: &str) -> Option<&ShownPool> {
        self.pools.iter().find(|pool| pool.key == key)
    }

    pub(super) fn snapshot(&self) -> HttpResponse {
        let recent = self.pools.iter().map(|pool| pool.scheduler.recent_snapshot(MAX_AGE));
        let snapshots: Vec<Arc<Snapshot>> = recent.collect();
        let mut last = self.last.borrow_mut();
        let is_same = |sent: &Sent| {
            sent.snapshots.iter().zip(&snapshots).all(|(sent, snapshot)| Arc::ptr_eq(sent, snapshot))
        };
        let known = last.as_ref().filter(|sent| is_same(sent)).map(|sent| sent.json.clone());
        let written = known.map_or_else(|| self.overview(&snapshots).map(Bytes::from), Ok);
        let Ok(bytes) = written else { return unwritable() };
        *last = Some(Sent { snapshots, json: bytes.clone() });
        let mut response = json(bytes);
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static(ASK_AGAIN), self.ask_again(Instant::now()).into());
        response
    }

    /// Returns in how many milliseconds a viewer is to ask again: all of them at the same moment. An application that has
    /// nothing else to do is woken once a second then, and answers the others while it is awake, which takes a fifth of the
    /// time.
    fn ask_again(&self, now: Instant) -> u16 {
        let running = self.pools.first().map(|pool| now.saturating_duration_since(pool.scheduler.started));
        ask_again_after(running.unwrap_or_default())
    }

    fn overview(&self, snapshots: &[Arc<Snapshot>]) -> serde_json::Result<Vec<u8>> {
        let mut shown: Vec<Snapshot> = snapshots.iter().map(|snapshot| Snapshot::clone(snapshot)).collect();
        shown.iter_mut().flat_map(|snapshot| &mut snapshot.failures).for_each(|summary| self.trim(summary));
        let keys = self.pools.iter().map(|pool| pool.key.as_str());
        serde_json::to_vec(&Overview {
            version: env!("CARGO_PKG_VERSION"),
            actions: self.has_actions,
            dossiers: self.detail == Detail::Lines,
            pools: keys.zip(&shown).map(|(key, value)| Keyed { key, value }).collect(),
        })
    }

    /// Leaves of a failure what may be shown.
    fn trim(&self, summary: &mut FailureSummary) {
        if self.detail == Detail::Kind {
            summary.text.clear();
        }
    }

    pub(super) async fn failures(&self, asked: &Asked) -> HttpResponse {
        let is_asked = |pool: &&ShownPool| asked.pool.as_ref().is_none_or(|key| *key == pool.key);
        let mut pools = Vec::new();
        for pool in self.pools.iter().filter(is_asked) {
            let mut failures = Vec::new();
            for (mut summary, failure) in pool.scheduler.tallies.failures_after(asked.since.unwrap_or(0)) {
                self.trim(&mut summary);
                failures.push(Dossier { summary, dossier: self.dossier(failure).await });
            }
            pools.push(Keyed { key: &pool.key, value: Listed { failures } });
        }
        if pools.is_empty() && asked.pool.is_some() {
            return page::text(StatusCode::NOT_FOUND, "the dashboard shows no pool with this key");
        }
        serde_json::to_vec(&Failures { pools })
            .map_or_else(|_| unwritable(), |bytes| json(Bytes::from(bytes)))
    }

    async fn dossier(&self, failure: Failure) -> Option<String> {
        match self.detail {
            Detail::Kind => None,
            Detail::Lines => {
                let failure = symbolizer::resolved(failure).await;
                Some(frame::cut(format!("{failure:#}"), MAX_DOSSIER))
            }
        }
    }
}

/// Returns the milliseconds until the first multiple of the period that is half a period ahead.
fn ask_again_after(running: Duration) -> u16 {
    let (period, half) = (PERIOD.as_millis(), PERIOD.as_millis() / 2);
    let left = period - (running.as_millis() + half) % period + half;
    u16::try_from(left).unwrap_or(u16::MAX)
}

fn json(bytes: Bytes) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(bytes)
}

fn unwritable() -> HttpResponse {
    page::text(StatusCode::INTERNAL_SERVER_ERROR, "the snapshot cannot be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_viewers_ask_again_at_the_same_moment() {
        for (running, expected) in
            [(0, 1000), (1, 999), (499, 501), (500, 1500), (501, 1499), (999, 1001), (1000, 1000)]
        {
            let running = Duration::from_millis(7000 + running);
            assert_eq!(ask_again_after(running), expected, "{running:?} after the start");
        }
    }

    #[test]
    fn every_pool_has_a_path_of_its_own() {
        let mut keys = BTreeSet::new();
        for (name, expected) in
            [("a", "a"), ("a-2", "a-2"), ("a", "a-3"), ("..", "pool"), ("pool", "pool-2"), (".", "pool-3")]
        {
            let key = key_of(name, &keys);
            assert_eq!(key, expected, "of {name:?}");
            assert!(keys.insert(key));
        }
    }
}
