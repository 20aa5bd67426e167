//! Figures as texts, and a page of them without a screen.

use std::time::{Duration, SystemTime};

use super::model::{Model, Rates};
use super::view::{Call, Failure, Pool, View, Worker};

/// Headings of the table of workers, with their widths; the last takes the rest.
pub const WORKER_COLUMNS: [(&str, u16); 8] = [
    ("NUMBER", 6),
    ("PID", 8),
    ("STATE", 8),
    ("AGE", 6),
    ("CALLS", 8),
    ("CPU", 5),
    ("MEMORY", 7),
    ("CALL", 12),
];

/// The cells of a worker.
pub fn worker_cells(worker: &Worker, rates: Option<&Rates>) -> [String; 8] {
    let processor = rates.and_then(|rates| rates.processor.get(&worker.number));
    let call = worker.call.as_deref().map_or(String::new(), |call| {
        format!("{} {}", printable(call), worker.running_for.map_or(String::new(), time))
    });
    [
        worker.number.to_string(),
        worker.pid.to_string(),
        worker.state.clone(),
        time(worker.age),
        count(worker.calls),
        processor.map_or("-".to_owned(), |part| format!("{:.0}%", part * 100.0)),
        worker.private_bytes.map_or("-".to_owned(), bytes),
        call,
    ]
}

/// Headings of the table of calls, with their widths; the first takes the rest.
pub const CALL_COLUMNS: [(&str, u16); 6] =
    [("CALL", 20), ("RATE", 8), ("OK", 8), ("ERRORS", 8), ("FAILURES", 8), ("MEAN RUN", 8)];

pub fn call_cells(call: &Call, rates: Option<&Rates>) -> [String; 6] {
    let rate = rates.and_then(|rates| rates.calls.get(&call.name));
    let mean = (call.run.count > 0).then(|| call.run.sum / call.run.count as f64);
    [
        printable(&call.name),
        rate.map_or("-".to_owned(), |rate| per_second(*rate)),
        count(call.succeeded),
        count(call.errors),
        count(call.failed()),
        mean.map_or("-".to_owned(), time),
    ]
}

/// What a pool does, in four lines.
pub fn summary(pool: &Pool, rates: Option<&Rates>) -> [String; 4] {
    let (counts, limits) = (&pool.counts, &pool.limits);
    let living = counts.starting + counts.idle + counts.leased + counts.ending;
    let workers = format!(
        "workers  {living} of {}..{}: {} idle, {} leased, {} starting, {} ending",
        limits.min_workers, limits.max_workers, counts.idle, counts.leased, counts.starting, counts.ending
    );
    let most = limits.max_waiting.map_or(String::new(), |most| format!(" of {most}"));
    let oldest =
        pool.queue.oldest.map_or(String::new(), |oldest| format!(", the oldest for {}", time(oldest)));
    let queue = format!("queue    {} waiting{most}{oldest}", pool.queue.length);
    let rate = |pick: fn(&Rates) -> f64| rates.map_or("-".to_owned(), |rates| per_second(pick(rates)));
    let rates = format!(
        "rates    {} calls, {} failures, {} forks",
        rate(|rates| rates.answered),
        rate(|rates| rates.failed),
        rate(|rates| rates.forked)
    );
    let totals = format!(
        "totals   {} calls, {} checkouts; {} workers forked, {} ended",
        count(pool.answered()),
        count(pool.totals.checkouts),
        count(pool.totals.forked),
        count(pool.ended())
    );
    [workers, queue, rates, totals]
}

/// What is unusual about a pool; empty if nothing is.
pub fn notice(pool: &Pool) -> String {
    let status = pool.status.as_deref().filter(|status| *status != "open").map(str::to_owned);
    let paused = pool.paused.then(|| "paused".to_owned());
    let outages = pool.servers.iter().filter_map(|server| server.outage.as_deref());
    let outages = outages.map(|outage| format!("no server: {}", printable(outage)));
    status.into_iter().chain(paused).chain(outages).collect::<Vec<_>>().join(", ")
}

pub fn failure_line(failure: &Failure) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(failure.at.clamp(0.0, 1e11));
    let ago = SystemTime::now().duration_since(at).unwrap_or_default().as_secs_f64();
    format!(
        "#{} {} ago  {}: {}",
        failure.number,
        time(ago),
        printable(&failure.kind),
        printable(&failure.text)
    )
}

/// The lines of a standalone server.
pub fn server_lines(model: &Model) -> Vec<String> {
    let Some(View::Server(server)) = &model.view else { return Vec::new() };
    let forks = model.server_forks.map_or("-".to_owned(), per_second);
    vec![
        format!("server   pid {}, forkpool {}", server.pid, printable(&server.library)),
        format!(
            "serves   for {}{}",
            time(server.uptime.as_secs_f64()),
            if server.draining { ", draining" } else { "" }
        ),
        format!("clients  {}, this one included", server.clients),
        format!("workers  {}, and {} parked", server.workers, server.parked),
        format!("forks    {forks}, {} in total, {} failed", count(server.forked), count(server.not_forked)),
        format!("refused  {} connections", count(server.turned_away)),
    ]
}

/// All of it, as a text.
pub fn page(model: &Model) -> String {
    let mut lines = server_lines(model);
    for (at, pool) in model.pools().iter().enumerate() {
        let rates = model.rates.get(at).and_then(Option::as_ref);
        lines.push(format!("pool     {} {}", printable(&pool.pool), notice(pool)).trim_end().to_owned());
        lines.extend(summary(pool, rates));
        lines.push(String::new());
        lines.push(row(&WORKER_COLUMNS, WORKER_COLUMNS.map(|(name, _)| name.to_owned())));
        lines.extend(pool.workers.iter().map(|worker| row(&WORKER_COLUMNS, worker_cells(worker, rates))));
        lines.push(String::new());
        lines.push(row(&CALL_COLUMNS, CALL_COLUMNS.map(|(name, _)| name.to_owned())));
        lines.extend(pool.calls.iter().map(|call| row(&CALL_COLUMNS, call_cells(call, rates))));
        lines.push(String::new());
        lines.extend(pool.failures.iter().rev().map(failure_line));
    }
    lines.join("\n").trim_end().to_owned() + "\n"
}

fn row<const COUNT: usize>(columns: &[(&str, u16); COUNT], cells: [String; COUNT]) -> String {
    let cells =
        columns.iter().zip(cells).map(|((_, width), cell)| format!("{cell:<0$}", usize::from(*width)));
    cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// A text of a worker without what a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// Seconds, in at most six columns.
pub fn time(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0}us", seconds * 1e6),
        0.001..1.0 => format!("{:.0}ms", seconds * 1e3),
        1.0..60.0 => format!("{seconds:.1}s"),
        60.0..3600.0 => format!("{:.0}m{:02.0}", (seconds / 60.0).floor(), (seconds % 60.0).floor()),
        3600.0..172_800.0 => {
            format!("{:.0}h{:02.0}", (seconds / 3600.0).floor(), (seconds / 60.0 % 60.0).floor())
        }
        _ => format!("{:.0}d", (seconds / 86_400.0).floor()),
    }
}

pub fn per_second(rate: f64) -> String {
    if rate < 9.95 { format!("{rate:.1}/s") } else { format!("{}/s", count(rate.round() as u64)) }
}

/// A count, in at most seven columns.
pub fn count(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..10_000_000 => format!("{}k", count / 1000),
        10_000_000..10_000_000_000 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", count / 1_000_000_000),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes}B"),
        10_240..10_485_760 => format!("{}K", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{}M", bytes >> 20),
        _ => format!("{}G", bytes >> 30),
    }
}
