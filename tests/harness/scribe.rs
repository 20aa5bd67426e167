//! A worker that logs.

use std::sync::atomic::{AtomicU64, Ordering};

use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{LogLevel, WorkerLog};
use serde::{Deserialize, Serialize};

use super::builder;

/// A worker that logs.
pub struct Scribe {
    computed: u32,
    kept: Option<tracing::Span>,
}

impl Actor for Scribe {
    type Context = WorkerContext<Self>;
}

impl Worker for Scribe {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        tracing::info!("set up outside of any call");
        Ok(Scribe { computed: 0, kept: None })
    }

    fn checkout_done(&mut self, ctx: &mut WorkerContext<Self>) {
        tracing::info!("done outside of any call");
        ctx.log().record(LogLevel(0), "however severe", [("outside", "of any call")]);
        drop(ctx.log().timer("outside of any call"));
        if let Some(kept) = &self.kept {
            kept.record("later", "outside of any call");
        }
    }
}

/// What a scribe does.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u64, Failure>")]
pub enum Write {
    EveryKind,
    Spans,
    /// Logs at level debug what it first has to compute; answers how often it did.
    Computed,
    Many(u64),
    FromAThread,
    ByTheLogCrate,
    ByTheContext,
    /// Opens a span, which stays open, or goes on in it.
    Keep,
    /// Begins a thread that logs for as long as the worker lives.
    FromBehind,
    /// Says by the context what has a field of a name that is taken, and what has no fields but a value.
    OddFields,
    /// Times so many things under names of their own.
    Names(u64),
    /// Says far more at once than a record may hold.
    Huge,
    /// Logs without end, and goes down anywhere in it once there are this many records.
    UntilCut(u64),
    /// Logs in a span, and then.
    Then(End),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum End {
    Aborts,
    Panics,
    Hangs,
}

impl Handler<Write> for Scribe {
    type Result = Result<u64, Failure>;

    fn handle(&mut self, write: Write, ctx: &mut WorkerContext<Self>) -> Self::Result {
        match write {
            Write::EveryKind => log_every_kind(),
            Write::Spans => log_in_spans(),
            Write::Computed => {
                tracing::debug!(computed = self.compute(), "computed");
                return Ok(self.computed.into());
            }
            Write::Many(count) => (0..count).for_each(|number| tracing::info!(number, "one of many")),
            Write::UntilCut(least) => log_until_cut(least),
            Write::FromAThread => {
                let thread = std::thread::spawn(|| tracing::info!("from a thread"));
                thread.join().expect("it logs");
            }
            Write::ByTheContext => log_by_the_context(&ctx.log()),
            Write::Keep => {
                let new = || tracing::info_span!("kept", later = tracing::field::Empty);
                let kept = self.kept.get_or_insert_with(new);
                kept.record("later", "now");
                kept.in_scope(|| tracing::info!("in kept"));
            }
            Write::FromBehind => {
                std::thread::spawn(|| {
                    loop {
                        tracing::info!("from behind");
                        std::thread::yield_now();
                    }
                });
            }
            Write::OddFields => {
                ctx.log().record(LogLevel(0), "a text", [("message", "a field")]);
                ctx.log().record(LogLevel::INFO, "another", 7);
            }
            Write::Names(count) => {
                for number in 0..count {
                    drop(ctx.log().timer(format!("timer {number}")));
                }
            }
            Write::Huge => log_huge(&ctx.log()),
            Write::ByTheLogCrate => {
                log::warn!(target: "logger", "by {}", "log");
                log::trace!("too fine");
            }
            Write::Then(end) => log_then(end),
        }
        Ok(0)
    }
}

fn log_every_kind() {
    tracing::error!("an error");
    tracing::warn!(target: "elsewhere", count = 3_u64, minus = -3_i64, half = 0.5, yes = true, "a warning");
    tracing::info!(text = "t\"x", shown = %"s", debugged = ?Some(1), "an info");
    tracing::trace!("a trace");
}

fn log_in_spans() {
    let outer = tracing::info_span!("outer", page = 1_u64, later = tracing::field::Empty);
    outer.in_scope(|| {
        tracing::info!("in outer");
        outer.record("later", "now");
        tracing::info_span!("inner").in_scope(|| tracing::info!("in inner"));
        tracing::info!(parent: None, "without a parent");
    });
    drop(outer);
    tracing::info!("behind both");
}

/// Never returns before the process aborts.
fn log_until_cut(least: u64) {
    static LOGGED: AtomicU64 = AtomicU64::new(0);
    std::thread::spawn(move || {
        while LOGGED.load(Ordering::Relaxed) < least {
            std::hint::spin_loop();
        }
        std::process::abort();
    });
    for number in 0.. {
        tracing::info!(number, "one of many");
        LOGGED.store(number + 1, Ordering::Relaxed);
    }
}

fn log_by_the_context(log: &WorkerLog) {
    let timer = log.timer("a timer");
    log.info("an info");
    log.debug("too fine");
    log.record(LogLevel(15), "between levels", [("list", [1, 2])]);
    drop(timer);
    log.data("key", [("nested", true)]);
}

fn log_huge(log: &WorkerLog) {
    let text = "ä".repeat(1 << 20);
    tracing::info!(first = %text, second = text, "{text}");
    log::info!("{text}");
    log.info(text.clone());
    let fields: Vec<(String, &str)> =
        (0..100).map(|number| (format!("{number} {text}"), text.as_str())).collect();
    log.record(LogLevel::INFO, text.clone(), fields);
    log.data(text.clone(), &text);
    drop(log.timer(text));
}

fn log_then(end: End) {
    let _span = tracing::info_span!("to the end").entered();
    tracing::info!("before the end");
    match end {
        End::Aborts => std::process::abort(),
        End::Panics => panic!("told to"),
        End::Hangs => loop {
            std::hint::spin_loop();
        },
    }
}

impl Scribe {
    fn compute(&mut self) -> u32 {
        self.computed += 1;
        self.computed
    }
}

forkpool::interface!(Scribe { Write });
forkpool::boot!(Scribe);

/// A pool of one scribe.
pub fn scribes() -> PoolHandle<Scribe> {
    builder::<Scribe>(()).workers(1..=1).start().expect("the pool starts")
}
