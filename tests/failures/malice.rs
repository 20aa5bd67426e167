//! What a worker that runs foreign code may say to its application: nothing that it sends costs more time, memory or
//! stack than its bytes justify. Each test is an attack.

use std::collections::{HashSet, LinkedList};
use std::fs::File;
use std::future::Future;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{Blob, RequestLog};
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

/// A worker that says what it is told to, in place of its loop.
struct Villain;

/// A value that contains values of its own type.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tree(Vec<Tree>);

impl Tree {
    /// A tree of so many levels, of which each node is two.
    fn of(levels: u32) -> Self {
        (1..levels / 2).fold(Tree(Vec::new()), |inner, _| Tree(vec![inner]))
    }

    fn nodes(&self) -> u32 {
        1 + self.0.iter().map(Tree::nodes).sum::<u32>()
    }
}

macro_rules! messages {
    ($($name:ident($field:ty) => $result:ty, |$message:ident| $body:expr;)+) => {
        $(
            #[derive(Debug, Serialize, Deserialize)]
            struct $name($field);

            impl Message for $name {
                type Result = Result<$result, Failure>;
            }

            impl Handler<$name> for Villain {
                type Result = Result<$result, Failure>;

                fn handle(&mut self, $message: $name, _: &mut WorkerContext<Self>) -> Self::Result {
                    $body
                }
            }
        )+
        forkpool::interface!(Villain { $($name),+ });
    };
}

/// Says these bytes on the worker's channel and waits to be killed.
fn say<T>(bytes: &[u8]) -> T {
    let channel = OwnChannel::find();
    channel.say(bytes);
    channel.wait_to_be_killed();
    unreachable!("it was not killed within a minute")
}

messages! {
    Idle(()) => u32, |_message| Ok(std::process::id());
    SayTree(Vec<u8>) => Tree, |message| say(&message.0);
    SaySet(Vec<u8>) => HashSet<()>, |message| say(&message.0);
    SayList(Vec<u8>) => LinkedList<()>, |message| say(&message.0);
    SayText(Vec<u8>) => String, |message| say(&message.0);
    SayWith((Vec<Blob>, Vec<u8>)) => (), |message| say(&message.0.1);
    GetTree(u32) => Tree, |message| Ok(Tree::of(message.0));
    Count(Tree) => u32, |message| Ok(message.0.nodes());
    Fill(u8) => Blob, |message| Ok(vec![message.0; 1 << 20].into());
    // The errors, and `None` where the pages are gone; the outer `None` where the system lets root alone try.
    TakePages(()) => Option<[Option<String>; 2]>, |_message| Ok(take_pages());
}

/// Takes the pages of the worker's results away, and those of its channel.
fn take_pages() -> Option<[Option<String>; 2]> {
    let take = |name: &str| {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let range = maps.lines().find(|line| line.contains(name))?.split(' ').next()?;
        let file =
            File::options().read(true).write(true).open(format!("/proc/self/map_files/{range}")).ok()?;
        let all = file.metadata().ok()?.len();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Some(rustix::fs::fallocate(&file, flags, 0, all).err().map(|error| error.to_string()))
    };
    Some([take("/memfd:forkpool-results ")?, take("/memfd:forkpool ")?])
}

impl Actor for Villain {
    type Context = WorkerContext<Self>;
}

impl Worker for Villain {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Villain)
    }
}

forkpool::boot!(Villain);

fn villains() -> PoolHandle<Villain> {
    builder::<Villain>(()).workers(1..=8).start().expect("the pool starts")
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("numbers and texts")
}

fn frame(body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u32::try_from(body.len()).expect("a short frame");
    [&length.to_le_bytes()[..], &body].concat()
}

/// The reply `Ok` to a call, with this value.
fn reply(id: u8, value: &[u8]) -> Vec<u8> {
    frame(&[&[2, id, 0, 0, 0], &[0], value])
}

/// A report of blobs: those that are lent, each as its bytes, and the starts of those that are held.
fn lending(lent: &[&[u8]], held: Option<&[u64]>) -> Vec<u8> {
    frame(&[&[5], &encoded(&lent.len()), &lent.concat(), &encoded(&held)])
}

/// Checks that a call fails by itself, with its type and the limit, and that the application goes on.
async fn fails_by_itself<T>(attack: impl Future<Output = Result<T, Failure>>, words: [&str; 2]) {
    let failure = answer(attack).await.err().expect("a failure");
    assert_eq!(failure.kind(), FailureKind::Payload, "{failure}");
    for word in words {
        assert!(failure.to_string().contains(word), "{word}: {failure}");
    }
}

/// G3, C7: this was the end of the application, by an overflow of its stack.
#[test]
fn a_reply_that_is_nested_deep_fails_its_own_call() {
    run(async {
        let pool = villains();
        let deep = vec![1; 64_000];
        fails_by_itself(pool.send(SayTree(reply(1, &deep))), ["Tree", "max_depth, 128 levels"]).await;
        assert!(answer(pool.send(Idle(()))).await.is_ok());
    });
}

/// G3, C7: this kept the arbiter busy for years, or took all memory.
#[test]
fn elements_without_bytes_that_a_reply_announces_fail_its_own_call() {
    run(async {
        let pool = villains();
        let many = encoded(&(1_u64 << 60));
        let limit = "at most 65536 elements";
        fails_by_itself(pool.send(SaySet(reply(1, &many))), ["HashSet<()>", limit]).await;
        fails_by_itself(pool.send(SayList(reply(1, &many))), ["LinkedList<()>", limit]).await;
        fails_by_itself(pool.send(SayTree(reply(1, &many))), ["Tree", limit]).await;
        assert!(answer(pool.send(Idle(()))).await.is_ok());
    });
}

/// G3, C7: the same inward. A message that is too deep costs no worker, because it is never sent.
#[test]
fn a_message_that_is_nested_deep_fails_before_it_is_sent() {
    run(async {
        let pool = builder::<Villain>(()).workers(1..=1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Idle(()))).await;
        for levels in [130, 20_000] {
            let failure = answer(checkout.send(Count(Tree::of(levels)))).await.expect_err("too deep");
            assert_eq!(failure.kind(), FailureKind::Payload);
            assert!(
                failure.to_string().contains("Count is nested deeper than max_depth, 128 levels"),
                "{failure}"
            );
            assert_eq!(failure.pid(), None, "no worker had it");
        }
        assert_eq!(answer(checkout.send(Count(Tree::of(126)))).await, Ok(63));
        fails_by_itself(async { answer(checkout.send(GetTree(200))).await }, ["Tree", "128 levels"]).await;
        assert_eq!(answer(checkout.send(Idle(()))).await, worker, "the worker has stayed");
    });
}

/// G3: the limit is an option, and holds for the worker as for the application.
#[test]
fn a_pool_may_take_deeper_values_or_less_deep_ones() {
    run(async {
        let deeper = builder::<Villain>(()).max_depth(302).start().expect("the pool starts");
        assert_eq!(answer(deeper.send(Count(Tree::of(300)))).await, Ok(150));
        assert_eq!(answer(deeper.send(GetTree(300))).await.map(|tree| tree.nodes()), Ok(150));
        let shallow = builder::<Villain>(()).max_depth(5).start().expect("the pool starts");
        assert_eq!(answer(shallow.send(Count(Tree::of(4)))).await, Ok(2));
        fails_by_itself(shallow.send(Count(Tree::of(6))), ["Count", "5 levels"]).await;
        fails_by_itself(shallow.send(GetTree(6)), ["Tree", "5 levels"]).await;
    });
}

/// Checks that a worker which says this in its first call is killed for it.
async fn breaks_the_protocol(what: &str, said: Vec<u8>, words: &str) {
    let pool = villains();
    let failure = answer(pool.send(SayText(said))).await.expect_err(what);
    assert_eq!(failure.kind(), FailureKind::Protocol, "{what}: {failure}");
    assert!(failure.to_string().contains(words), "{what}: {failure}");
    assert!(answer(pool.send(Idle(()))).await.is_ok(), "{what}: the pool goes on");
}

/// G3: what the application keeps and prints of a message is short.
#[test]
fn a_worker_that_says_more_than_fits_into_a_header_is_killed() {
    run(async {
        let text = "x".repeat(70_000);
        let panicked = frame(&[&[2, 1, 3], &encoded(&(&text, None::<String>, "")), &[0, 0, 0, 0, 0]]);
        let refused = frame(&[&[2, 1, 4], &encoded(&text), &[0, 0, 0]]);
        let logged = frame(&[&[4, 1, 0, 4], &encoded(&("name", &text))]);
        for (what, said) in [("a panic", panicked), ("a payload error", refused), ("a log record", logged)] {
            breaks_the_protocol(what, said, "exceeds the limit of 65536").await;
        }
    });
}

/// G3: a reply lends each slot once, and not more blobs than it may.
#[test]
fn a_worker_that_lends_too_much_is_killed() {
    run(async {
        let own: &[u8] = &[0, 3, 0, 1];
        breaks_the_protocol("a slot twice", lending(&[own, own], None), "a blob that it does not have").await;
        let twice = [lending(&[own], None), lending(&[own], None)].concat();
        breaks_the_protocol("two reports", twice, "twice for one reply").await;
        let many = vec![own; 65_537];
        breaks_the_protocol("too many", lending(&many, None), "more blobs than a reply may have").await;
    });
}

/// G3: two such lists kept the arbiter busy for 45 s, because each entry was searched for among all others.
#[test]
fn a_list_of_blobs_in_use_names_each_once() {
    run(async {
        let pool = villains();
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Idle(()))).await.is_ok());
        let blobs: Vec<Blob> = (0..2).map(|byte| vec![byte; 20_000].into()).collect();
        // Blobs begin at pages: the first at 0, the second at page 5.
        let first = lending(&[], Some(&[&vec![0; 99_999][..], &[5 * 4096]].concat()));
        let second = lending(&[], Some(&vec![5 * 4096; 100_000]));
        let said = [first, reply(2, &[]), second, reply(3, &[])].concat();
        let evil = checkout.send(SayWith((blobs, said)));
        let next = checkout.send(SayWith((Vec::new(), Vec::new())));
        let failure = answer(evil).await.expect_err("a protocol error");
        assert_eq!(failure.kind(), FailureKind::Protocol, "{failure}");
        assert!(failure.to_string().contains("it was not lent"), "{failure}");
        assert_eq!(answer(next).await.err().map(|failure| failure.kind()), Some(FailureKind::Cleared));
    });
}

/// G3: the texts of a record are cut by the application as well, so that a log keeps to its own limit.
#[test]
fn a_record_has_no_more_text_than_a_record_may_have() {
    run(async {
        let (deliver, delivered) = std::sync::mpsc::channel();
        let log = RequestLog::new(move |log| drop(deliver.send(log.to_json())));
        let pool = villains();
        let checkout = pool.checkout().log(&log).start();
        let source = (30_u8, "event", "forkpool::log", None::<String>, None::<u32>, ["message", "more"]);
        let texts = [(0_u8, 5_u8, "m".repeat(15_000)), (1, 5, "n".repeat(15_000))];
        // The length of a `Vec` in front of the array.
        let values = [&[2][..], &encoded(&texts)].concat();
        let (before, fields) = (encoded(&source), 2_u8);
        let (head, names) = before.split_at(before.len() - encoded(&["message", "more"]).len());
        let event = frame(&[&[4, 1, 0], &[0, 0], head, &[fields], names, &values]);
        let said = [event, reply(1, &encoded(&"done"))].concat();
        assert_eq!(answer(checkout.send(SayText(said))).await.as_deref(), Ok("done"));
        answer(checkout.send(Abort("it has said all".to_owned()))).await;
        drop((checkout, log));
        let mut json = String::new();
        until("the log is delivered", || delivered.try_recv().map(|log| json = log).is_ok()).await;
        let count = |letter| json.chars().filter(|&char| char == letter).count();
        assert!(count('m') >= 15_000, "the first text is whole");
        assert!((1_000..2_000).contains(&count('n')), "the second is cut: {}", count('n'));
    });
}

/// G4: the application maps no result, so it neither reads what is not there nor pays for it.
#[test]
fn pages_that_a_worker_takes_away_cost_the_application_nothing() {
    run(async {
        let pool = builder::<Villain>(()).workers(1..=1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let result = answer(checkout.send(Fill(7))).await.expect("a result");
        assert_eq!(result.read_at(result.len() - 1, &mut [0; 2]), 1);
        let maps = std::fs::read_to_string("/proc/self/maps").expect("mappings");
        assert!(!maps.contains("forkpool-results"), "{maps}");
        let Some([results, channel]) = answer(checkout.send(TakePages(()))).await.expect("an answer") else {
            println!("skipped: only root opens a mapping again");
            return;
        };
        assert_eq!(results, None, "its own results are its own to spoil");
        assert!(channel.is_some_and(|error| error.contains("not permitted")), "the channel is sealed");
        assert_eq!(result.to_vec(), vec![0; 1 << 20]);
        let again = answer(checkout.send(Fill(9))).await.expect("a result");
        assert_eq!(again.to_vec(), vec![9; 1 << 20], "the worker and its channel go on");
    });
}
