//! Large payloads: how much more they cost than to be copied once in each direction.
//!
//! 16 MiB and 1 MiB, there and back. In place: the application writes a blob, the worker reads it where it lies and
//! writes another, and the application reads that; what is written comes from, and what is read goes to, the processor's
//! own memory. Copied: the application has a `Vec` and gets one, and so does the worker. Beside them the limit, `memcpy`
//! from one warm buffer to another and back, and what users have otherwise: a `Vec`, or a text, in the message itself.

mod support;

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use actix::prelude::*;
use forkpool::Transport;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};
use support::{Placement, Report, Series, Setting};

const MIB: usize = 1 << 20;

/// Bytes that stay in the processor's own memory.
const PIECE: usize = 16 << 10;

struct Mill;

impl Actor for Mill {
    type Context = WorkerContext<Self>;
}

impl Worker for Mill {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Mill)
    }
}

/// Answers as many bytes as it got, and reads those where they are.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<Blob, Failure>")]
struct InPlace(Blob);

/// Has what it got in a `Vec` of its own, and answers that.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<Blob, Failure>")]
struct Copied(Blob);

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<Vec<u8>, Failure>")]
struct Plain(Vec<u8>);

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<String, Failure>")]
struct Text(String);

impl Handler<InPlace> for Mill {
    type Result = Result<Blob, Failure>;

    fn handle(&mut self, InPlace(blob): InPlace, ctx: &mut WorkerContext<Self>) -> Self::Result {
        read(&blob);
        let mut answer = ctx.blob(blob.len())?;
        write(&mut answer);
        Ok(answer.freeze())
    }
}

impl Handler<Copied> for Mill {
    type Result = Result<Blob, Failure>;

    fn handle(&mut self, Copied(blob): Copied, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(black_box(blob.to_vec()).into())
    }
}

impl Handler<Plain> for Mill {
    type Result = Result<Vec<u8>, Failure>;

    fn handle(&mut self, Plain(bytes): Plain, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(bytes)
    }
}

impl Handler<Text> for Mill {
    type Result = Result<String, Failure>;

    fn handle(&mut self, Text(text): Text, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(text)
    }
}

forkpool::interface!(Mill { InPlace, Copied, Plain, Text });
forkpool::boot!(Mill);

/// Reads all of it, as a program does that has some use for every byte.
fn read(blob: &Blob) {
    let mut reader = blob.reader();
    let mut sum = 0_u64;
    while let Ok(piece @ [_, ..]) = reader.fill_buf() {
        let (words, _) = piece.as_chunks::<8>();
        sum = words.iter().fold(sum, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
        let count = piece.len();
        reader.consume(count);
    }
    black_box(sum);
}

/// Writes all of it, from little.
fn write(blob: &mut BlobMut) {
    let piece = [7; PIECE];
    while let Ok(1..) = blob.write(black_box(&piece)) {}
}

fn main() {
    support::run("payload", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let blobs = Bench::start(setting, Transport::default()).await;
    let socket = Bench::start(setting, Transport::Socket).await;
    let mut report = Report::default();
    for (size, name) in [(16 * MIB, "16m"), (MIB, "1m")] {
        let rounds = setting.rounds(if size == MIB { 200 } else { 60 });
        let named = |what: &str| Series::seconds(format!("{what}, {} MiB", size / MIB));
        let mut in_place = named("a blob, written and read in place");
        let mut copied = named("a blob, from a Vec and into one");
        let mut vec = named("a Vec in the message, over a socket");
        let mut text = named("a String in the message, over a socket");
        let mut copy = named("memcpy there and back");
        let (mut here, mut there) = (vec![1_u8; size], vec![2_u8; size]);
        for _ in 0..rounds {
            in_place.push(blobs.in_place(size).await);
            copied.push(blobs.copied(size).await);
            if size == MIB {
                vec.push(socket.plain(size).await);
                text.push(socket.text(size).await);
            }
            let began = Instant::now();
            there.copy_from_slice(black_box(&here));
            here.copy_from_slice(black_box(&there));
            copy.push(began.elapsed().as_secs_f64());
        }
        let at = setting.placement;
        [&in_place, &copied, &copy].into_iter().for_each(|series| report.row(series));
        report.ratio(&format!("payload/blob_{name}_in_place@{at}"), in_place.median() / copy.median());
        report.ratio(&format!("payload/blob_{name}_copied@{at}"), copied.median() / copy.median());
        if size == MIB {
            [&vec, &text].into_iter().for_each(|series| report.row(series));
            report.ratio(&format!("payload/blob_{name}_vs_vec@{at}"), copied.median() / vec.median());
            report.ratio(&format!("payload/blob_{name}_vs_text@{at}"), copied.median() / text.median());
        }
    }
    if setting.placement == Placement::Any {
        growth(setting, &blobs, &mut report).await;
    }
    blobs.stop().await;
    socket.stop().await;
    report
}

/// How a blob that is written and read in place grows with its size.
async fn growth(setting: Setting, bench: &Bench, report: &mut Report) {
    let largest = if setting.quick { 16 * MIB } else { 1024 * MIB };
    // Both sides know by then how long the other takes.
    for _ in 0..setting.rounds(1000) {
        bench.in_place(64).await;
    }
    let mut size = 64;
    while size <= largest {
        let mut series = Series::seconds(format!("a blob, written and read in place, {size} bytes"));
        for _ in 0..setting.rounds((64 * MIB / size).clamp(3, 200)) {
            series.push(bench.in_place(size).await);
        }
        report.row(&series);
        report.point("payload/blob", size as f64, series.median());
        size *= 4;
    }
}

/// A pool of one worker, and a checkout of it.
struct Bench {
    pool: PoolHandle<Mill>,
    checkout: Addr<Checkout<Mill>>,
}

impl Bench {
    async fn start(setting: Setting, transport: Transport) -> Self {
        let pool = Pool::<Mill>::builder(()).workers(1..=1).transport(transport).start().expect("a pool");
        let checkout = pool.checkout().start();
        checkout.send(Text(String::new())).await.expect("an answer").expect("a worker");
        pool.stats().pids.into_iter().for_each(|worker| setting.place(worker));
        Bench { pool, checkout }
    }

    async fn in_place(&self, size: usize) -> f64 {
        let began = Instant::now();
        let mut blob = self.pool.blob(size).expect("room");
        write(&mut blob);
        let back = self.checkout.send(InPlace(blob.freeze())).await.expect("an answer").expect("a blob");
        read(&back);
        began.elapsed().as_secs_f64()
    }

    async fn copied(&self, size: usize) -> f64 {
        let bytes = vec![3; size];
        let began = Instant::now();
        let back = self.checkout.send(Copied(bytes.into())).await.expect("an answer").expect("a blob");
        let back = Vec::from(back);
        let took = began.elapsed().as_secs_f64();
        black_box(back);
        took
    }

    async fn plain(&self, size: usize) -> f64 {
        let bytes = vec![3; size];
        let began = Instant::now();
        let back = self.checkout.send(Plain(bytes)).await.expect("an answer").expect("a Vec");
        let took = began.elapsed().as_secs_f64();
        black_box(back);
        took
    }

    async fn text(&self, size: usize) -> f64 {
        let text = "x".repeat(size);
        let began = Instant::now();
        let back = self.checkout.send(Text(text)).await.expect("an answer").expect("a text");
        let took = began.elapsed().as_secs_f64();
        black_box(back);
        took
    }

    async fn stop(self) {
        drop(self.checkout);
        self.pool.stop(Duration::from_secs(5)).await;
    }
}
