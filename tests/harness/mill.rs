//! A worker that reads blobs and makes some.

use std::borrow::Cow;
use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

use super::{builder, own_memory};

/// A worker that reads blobs and makes some.
pub struct Mill {
    kept: Vec<Blob>,
}

impl Actor for Mill {
    type Context = WorkerContext<Self>;
}

impl Worker for Mill {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Mill { kept: Vec::new() })
    }
}

/// Everything a message may have a blob in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Album {
    pub title: String,
    pub cover: Option<Blob>,
    pub pages: Vec<Blob>,
    pub notes: Result<Blob, u32>,
}

macro_rules! work {
    ($($name:ident($field:ty) => $result:ty, |$mill:ident, $message:ident, $ctx:ident| $body:expr;)+) => {
        $(
            #[derive(Clone, Debug, Serialize, Deserialize)]
            pub struct $name(pub $field);

            impl Message for $name {
                type Result = Result<$result, Failure>;
            }

            impl Handler<$name> for Mill {
                type Result = Result<$result, Failure>;

                fn handle(&mut self, $message: $name, $ctx: &mut WorkerContext<Self>) -> Self::Result {
                    let $mill = self;
                    let _ = (&$mill, &$message, &$ctx);
                    $body
                }
            }
        )+
        forkpool::interface!(Mill { $($name),+ });
    };
}

work! {
    Whoami(()) => u32, |mill, message, ctx| Ok(std::process::id());
    // Its sum, and whether it is read where it lies.
    Sum(Blob) => (u64, bool), |mill, message, ctx| {
        let bytes = message.0.bytes();
        Ok((sum(&bytes), matches!(bytes, Cow::Borrowed(_))))
    };
    Return(Blob) => Blob, |mill, message, ctx| Ok(message.0);
    Negate(Blob) => Blob, |mill, message, ctx| {
        let mut negative = ctx.blob(message.0.len())?;
        let mut reader = message.0.reader();
        while reader.remaining() > 0 {
            let piece: Vec<u8> = reader.fill_buf().map_err(told)?.iter().map(|byte| !byte).collect();
            negative.write_all(&piece).map_err(told)?;
            reader.consume(piece.len());
        }
        Ok(negative.freeze())
    };
    Make((usize, u8)) => Blob, |mill, message, ctx| Ok(vec![message.0.1; message.0.0].into());
    Reserve(usize) => usize, |mill, message, ctx| Ok(ctx.blob(message.0)?.capacity());
    Copy(Album) => Album, |mill, message, ctx| Ok(message.0);
    Keep(Blob) => usize, |mill, message, ctx| {
        mill.kept.push(message.0);
        Ok(mill.kept.len())
    };
    // Keeps what it answers as well.
    MakeAndKeep((usize, u8)) => Blob, |mill, message, ctx| {
        let blob = Blob::from(vec![message.0.1; message.0.0]);
        let mut bytes = ctx.blob(blob.len())?;
        bytes.write_all(&blob.bytes()).map_err(told)?;
        mill.kept.push(bytes.freeze());
        Ok(mill.kept[mill.kept.len() - 1].clone())
    };
    SumOfKept(()) => Vec<u64>, |mill, message, ctx| Ok(mill.kept.iter().map(|blob| sum(&blob.bytes())).collect());
    ReturnKept(()) => Vec<Blob>, |mill, message, ctx| Ok(mill.kept.clone());
    Forget(()) => (), |mill, message, ctx| {
        mill.kept.clear();
        Ok(())
    };
    Linger((Blob, Duration)) => u64, |mill, message, ctx| {
        std::thread::sleep(message.0.1);
        Ok(sum(&message.0.0.bytes()))
    };
    EndWith(Blob) => u64, |mill, message, ctx| std::process::exit(i32::from(message.0.bytes()[0]));
    FailWith(Blob) => Blob, |mill, message, ctx| Err(Failure::task(message.0.len().to_string()));
    // Whether it can write to what it was lent, by hook or by crook.
    Deface(Blob) => bool, |mill, message, ctx| {
        let bytes = message.0.bytes();
        Ok(own_memory().write_all_at(b"x", bytes.as_ptr() as u64).is_ok() && bytes[0] == b'x')
    };
    // A result that goes on changing.
    Flicker(usize) => Blob, |mill, message, ctx| {
        let blob = {
            let mut bytes = ctx.blob(message.0)?;
            bytes.append_zeroes(message.0).map_err(told)?;
            bytes.freeze()
        };
        let (mine, length) = (blob.clone(), message.0);
        std::thread::spawn(move || {
            let (memory, start) = (own_memory(), mine.bytes().as_ptr() as u64);
            for number in (0..=255_u8).cycle() {
                memory.write_all_at(&vec![number; length], start).expect("its own memory");
            }
        });
        Ok(blob)
    };
}

forkpool::boot!(Mill);

fn told(error: std::io::Error) -> Failure {
    Failure::task(error.to_string())
}

/// The sum of all bytes. Eight at a time, since tests are not optimised: the even ones and the odd ones of each word.
pub fn sum(bytes: &[u8]) -> u64 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let (words, rest) = bytes.as_chunks::<8>();
    let halves = words.iter().map(|word| {
        let word = u64::from_ne_bytes(*word);
        (word & EVEN) + (word >> 8 & EVEN)
    });
    let of_words: u64 = halves.map(|half| half.wrapping_mul(0x0001_0001_0001_0001) >> 48).sum();
    of_words + rest.iter().map(|&byte| u64::from(byte)).sum::<u64>()
}

/// Bytes of which no two neighbours are the same.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

pub fn mills() -> forkpool::PoolBuilder<Mill> {
    builder::<Mill>(()).workers(1..=1)
}

pub fn start(builder: forkpool::PoolBuilder<Mill>) -> PoolHandle<Mill> {
    builder.start().expect("the pool starts")
}

/// A blob of this pool's with this in it.
pub fn blob(pool: &PoolHandle<Mill>, bytes: &[u8]) -> Blob {
    let mut blob = pool.blob(bytes.len()).expect("there is room");
    blob.write_all(bytes).expect("there is room");
    blob.freeze()
}
