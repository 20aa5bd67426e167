//! No benchmark: it makes docs/PERFORMANCE.md and its plots of what the others have printed.
//!
//! ```sh
//! cargo bench --features iceoryx2 2>&1 | tee target/benches.log
//! cargo bench --bench performance -- target/benches.log
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

type Points = Vec<(f64, f64)>;

/// What a ratio is of, and what was aimed at.
struct Aim {
    name: &'static str,
    meaning: &'static str,
    aim: &'static str,
}

macro_rules! aims {
    ($($name:literal: $meaning:literal, $aim:literal;)+) => {
        const AIMS: &[Aim] = &[$(Aim { name: $name, meaning: $meaning, aim: $aim }),+];
    };
}

aims! {
    "round_trip/spin_floor@two": "a warm call of 64 bytes ÷ two processors that spin on one cache line", "≤ 8";
    "round_trip/actor_spin_floor@two": "the same through `Addr<Checkout>`", "≤ 12";
    "round_trip/iceoryx2@two": "a warm call ÷ iceoryx2's request-response, with both processes polling", "≤ 2";
    "round_trip/iceoryx2_events@two": "a warm call ÷ the same, with iceoryx2's events", "";
    "round_trip/iceoryx2_events@one": "the same, on one processor", "";
    "round_trip/pipe@two": "a warm call ÷ a blocking ping-pong over pipes", "≤ 0.02";
    "round_trip/pipe@one": "a warm call ÷ a ping-pong over pipes, on one processor", "≤ 1.4";
    "round_trip/sync_arbiter@two": "a warm call ÷ a call to a `SyncArbiter`", "";
    "round_trip/procspawn@any": "a warm call ÷ a call with procspawn", "≤ 0.02";
    "round_trip/procspawn@one": "the same, on one processor", "≤ 0.15";
    "round_trip/foreign_arbiter@two": "a call from another arbiter ÷ from the pool's own arbiter", "≤ 1.2";
    "apart/round_trip@any": "a call to a worker of a standalone server ÷ of a private server", "≤ 1.15";
    "apart/start@any": "a start on a standalone server ÷ on a private server", "≤ 1.5";
    "throughput/pool_64@any": "`pool.send`: calls a second, 64 in flight, 2 workers ÷ `SyncArbiter` with 2 threads", "≥ 1";
    "throughput/pool_burst_64@any": "the same in bursts of 6,400 calls, with sleeping workers before each", "";
    "throughput/pool_1024@any": "the same with 1024 in flight", "≥ 1";
    "throughput/pool_64@one": "the same with 64 in flight, on one processor", "≥ 2";
    "throughput/pool_64_200b@any": "the same with 64 in flight and messages of 200 bytes", "";
    "throughput/pool_64_4k@any": "the same with 64 in flight and messages of 4 KiB", "";
    "throughput/pool_crossbeam_64@any": "`pool.send`, 64 in flight, 2 workers ÷ 2 threads over a crossbeam channel", "";
    "throughput/pool_cpu_64@any": "`pool.send`: processor time of a call, 64 in flight ÷ `SyncArbiter`", "";
    "throughput/sync_arbiter_64@any": "held checkouts: calls a second, 64 in flight ÷ `SyncArbiter`", "≥ 1.1";
    "throughput/sync_arbiter_1024@any": "the same with 1024 in flight", "≥ 1.1";
    "throughput/sync_arbiter_64@one": "the same with 64 in flight, on one processor", "";
    "throughput/cpu_sync_arbiter@any": "held checkouts: processor time of a call, 64 in flight ÷ `SyncArbiter`", "≤ 1";
    "throughput/batch_sync_arbiter@any": "held checkouts: calls a second in batches of 64 ÷ `SyncArbiter`", "≥ 1.8";
    "throughput/batch_sync_arbiter@one": "the same, on one processor", "≥ 6";
    "throughput/pool_batch_sync_arbiter@any": "`pool.send_batch`: calls a second in batches of 64 ÷ `SyncArbiter`", "";
    "throughput/web_block_20us@any": "`pool.send` of 20 µs of work, 16 callers on two arbiters, 2 workers ÷ `web::block` with 2 threads", "≥ 0.95";
    "throughput/pool_8_arbiters_over_2@any": "`pool.send`, 64 in flight: calls a second from eight arbiters ÷ from two", "≥ 0.8";
    "throughput/mixed_short_p50_us@any": "one call of 1 ms among 64 short ones, 2 workers: median of the short ones, µs", "≤ 50";
    "throughput/mixed_short_p99_us@any": "the same: the slowest of a hundred short ones", "≤ 1200";
    "throughput/mixed_short_sync_arbiter_p50_us@any": "the same on a `SyncArbiter` with 2 threads: median", "";
    "throughput/mixed_short_sync_arbiter_p99_us@any": "the same: the slowest of a hundred", "";
    "payload/blob_16m_in_place@two": "16 MiB in a `Blob`, written and read in place, there and back ÷ `memcpy` there and back", "≤ 1.5";
    "payload/blob_16m_copied@two": "the same, but copied from a `Vec` and into a `Vec` on both sides", "≤ 3.5";
    "payload/blob_1m_vs_vec@two": "1 MiB from a `Vec` into a `Vec` by a `Blob` ÷ as a `Vec` in the message, over a socket", "≤ 0.3";
    "payload/blob_1m_vs_text@two": "the same ÷ as a `String`, which encodes faster", "";
    "spin/crowded_10us@any": "at least as many workers as processors, 10 µs of work a call: calls a second ÷ over sockets", "≥ 0.97";
    "spin/crowded_100us@any": "the same with 100 µs", "≥ 0.97";
    "spin/hog@any": "calls a second beside a process that takes all processor time it can get ÷ over sockets", "≥ 0.97";
    "spin/idle_cpu": "processor share of an idle pool", "0.00";
    "spin/sparse_cpu@any": "processor time at 100 calls a second ÷ over sockets", "≤ 1.05";
    "start/bare_fork_server@any": "from no worker to the first reply ÷ to the first byte of a bare fork server's child", "≤ 1";
    "start/preload_2g_over_0@any": "from no worker to the first reply with 2 GiB of `SharedBytes` ÷ with no preload", "≤ 1.3";
    "start/ordinary_200m_over_0@any": "the same with 200 MiB in a `Vec` ÷ with no preload", "";
    "start/burst_of_8@any": "each of eight simultaneous starts ÷ a start of a bare fork server", "≤ 1.3";
    "start/batch_of_8@any": "each of eight simultaneous starts ÷ a single start", "≤ 0.6";
    "start/extra_worker_kib": "memory of one more idle worker with 200 MiB preloaded, in KiB", "≤ 100";
    "start/extra_worker_dirty_kib": "the same without program text, which the kernel counts as an average", "";
    "recovery/notice_plus_start@any": "from kill -9 of the only worker to the next reply ÷ a bare exit notice plus a bare start", "≤ 1.2";
    "surge/100k_over_10k": "cost of a checkout while 100,000 wait ÷ while 10,000 wait", "";
    "allocations/pool_call": "allocations of `pool.send` beyond the result", "≤ 3";
    "allocations/call_over_actix": "allocations of a call beyond actix's own and the result", "";
    "allocations/call_in_a_batch": "allocations of a call in a batch beyond the result", "";
}

/// One picture: its file, what stands at its axes, and its curves.
struct Plot {
    file: &'static str,
    title: &'static str,
    across: &'static str,
    up: &'static str,
    curves: &'static [(&'static str, &'static str)],
}

const PLOTS: &[Plot] = &[
    Plot {
        file: "workers.svg",
        title: "A call, by the number of workers that are there",
        across: "workers",
        up: "µs",
        curves: &[("workers/call", "a call"), ("workers/start_of_each", "the start of each")],
    },
    Plot {
        file: "payload.svg",
        title: "Many bytes there and back, by how many",
        across: "bytes",
        up: "µs",
        curves: &[
            ("payload/call", "a text"),
            ("payload/two_copies", "two copies in memory"),
            ("payload/blob", "a blob"),
        ],
    },
    Plot {
        file: "waiting.svg",
        title: "A checkout with one call, by how many wait for twenty workers",
        across: "waiting checkouts",
        up: "µs",
        curves: &[("waiting/checkout", "each of them")],
    },
    Plot {
        file: "preload.svg",
        title: "From no worker to the first reply, by what is preloaded",
        across: "MiB, and 1 for nothing",
        up: "µs",
        curves: &[("preload/shared_bytes", "in SharedBytes"), ("preload/vec", "in a Vec")],
    },
];

/// What the benchmarks have printed.
#[derive(Default)]
struct Log {
    tables: Vec<String>,
    ratios: BTreeMap<String, String>,
    points: BTreeMap<String, Points>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(log) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        println!(
            "usage: cargo bench --bench performance -- LOG, where LOG is what `cargo bench` has printed"
        );
        return Ok(());
    };
    // Cargo runs benchmarks in the folder of their package, but nobody calls it there.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let log = Log::read(&std::fs::read_to_string(root.join(log))?);
    let docs = root.join("docs");
    let pictures = docs.join("performance");
    std::fs::create_dir_all(&pictures)?;
    for plot in PLOTS {
        draw(plot, &log, &pictures.join(plot.file))?;
    }
    let page = docs.join("PERFORMANCE.md");
    let before = std::fs::read_to_string(&page)?;
    std::fs::write(&page, renew(&before, &log)?)?;
    println!("{} and {} plots", page.display(), PLOTS.len());
    Ok(())
}

impl Log {
    fn read(text: &str) -> Self {
        let (mut log, mut table) = (Log::default(), None::<String>);
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["ratio", name, value] => drop(log.ratios.insert(name.to_owned(), value.to_owned())),
                ["point", curve, at, value] => {
                    if let (Ok(at), Ok(value)) = (at.parse(), value.parse()) {
                        log.points.entry(curve.to_owned()).or_default().push((at, value));
                    }
                }
                [_, placement, ..] if placement.starts_with('@') && placement.ends_with(':') => {
                    table = Some(format!("{line}\n"));
                }
                [] => log.tables.extend(table.take()),
                _ => {
                    if let Some(table) = &mut table {
                        let _ = writeln!(table, "{}", line.trim_end());
                    }
                }
            }
        }
        log
    }
}

/// The page with its generated parts made anew; they stand between marks.
fn renew(page: &str, log: &Log) -> Result<String, Box<dyn Error>> {
    let mut page = page.to_owned();
    for (mark, text) in [("ratios", ratios(log)), ("machine", machine()), ("tables", tables(log))] {
        let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->"));
        let from = page.find(&begin).ok_or("the page has no such mark")? + begin.len();
        let to = page.find(&end).ok_or("the page has no end of that mark")?;
        page.replace_range(from..to, &text);
    }
    Ok(page)
}

fn ratios(log: &Log) -> String {
    let mut text = "| ratio | of what | measured | aim |\n|---|---|---|---|\n".to_owned();
    for Aim { name, meaning, aim } in AIMS {
        let value = log.ratios.get(*name).map_or("–", String::as_str);
        let _ = writeln!(text, "| `{name}` | {meaning} | {value} | {aim} |");
    }
    text
}

fn tables(log: &Log) -> String {
    log.tables.iter().fold(String::new(), |text, table| text + "```text\n" + table + "```\n\n")
}

/// What the figures were taken on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory =
        read("/proc/meminfo").lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{processors} processors ({}), {} GiB of memory, Linux {}, a virtual machine.\n",
        model.trim_start_matches([' ', '\t', ':']),
        memory.unwrap_or(0_u64) >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

fn draw(plot: &Plot, log: &Log, file: &PathBuf) -> Result<(), Box<dyn Error>> {
    let curves: Vec<(&str, Points)> = plot
        .curves
        .iter()
        .filter_map(|(curve, name)| Some((*name, log.points.get(*curve)?)))
        .map(|(name, points)| (name, points.iter().map(|(at, value)| (at.max(1.0), value * 1e6)).collect()))
        .collect();
    let all: Points = curves.iter().flat_map(|(_, points)| points.iter().copied()).collect();
    if all.is_empty() {
        return Ok(());
    }
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) =
            all.iter().map(of).fold((f64::MAX, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
        (low / 1.5)..(high * 1.5)
    };
    let root = SVGBackend::new(file, (760, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(range(|point| point.0).log_scale(), range(|point| point.1).log_scale())?;
    chart.configure_mesh().x_desc(plot.across).y_desc(plot.up).light_line_style(WHITE).draw()?;
    for ((name, points), colour) in curves.into_iter().zip([BLUE, RED, GREEN]) {
        let line = LineSeries::new(points, colour.stroke_width(2)).point_size(3);
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2));
        chart.draw_series(line)?.label(name).legend(legend);
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    root.present()?;
    Ok(())
}
