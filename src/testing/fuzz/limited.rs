//! The bounded run of the decoders with a state, in a process with limits on memory, time and stack.

use std::process::Command;

use super::messages::Draw;
use super::smoke::{STATEFUL, mutate, stored};
use super::*;
use crate::testing::seeded_rng::{SeededRng, seeds};
use crate::wire::call::{ArenaSpan, Lending, Lent};
use crate::wire::log_record::{CallsiteInfo, Logged, Record, Value};

/// Most kibibytes of data of the process, for inputs of up to a megabyte.
const DATA_LIMIT: &str = "131072";

/// Most seconds of processor time of the whole run, which takes a small part of them.
const TIME_LIMIT: &str = "120";

/// Bytes of the stack that an input has, a quarter of what threads have by default. The code here is not optimised.
const STACK: usize = 512 << 10;

/// G3: if an input takes more than that, the process is ended by the kernel.
#[test]
fn decoders_with_a_state_keep_to_limits_of_memory_time_and_stack() {
    let this = std::env::current_exe().expect("this program");
    let script =
        format!("ulimit -c 0; ulimit -d {DATA_LIMIT} && ulimit -t {TIME_LIMIT} && exec \"$0\" \"$@\"");
    let run = Command::new("sh")
        .args(["-c", &script])
        .arg(this)
        .args(["testing::fuzz::limited::inputs_within_limits", "--exact", "--ignored", "--nocapture"])
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{}: {said}", run.status);
}

#[test]
#[ignore = "run with limits by the test above"]
fn inputs_within_limits() {
    let run = std::thread::Builder::new().stack_size(STACK).spawn(run_all).expect("a thread");
    assert!(run.join().is_ok(), "see above");
}

fn run_all() {
    for (name, target, generate) in STATEFUL {
        attacks().iter().chain(&stored(name)).for_each(|input| target(input));
        for seed in seeds(0..1_000) {
            let mut rng = SeededRng::new(seed);
            let (mut input, other) = (generate(&mut rng), generate(&mut rng));
            if rng.happens(700) {
                mutate(&mut input, &other, &mut rng);
            }
            let run = std::panic::AssertUnwindSafe(|| target(&input));
            if let Err(problem) = std::panic::catch_unwind(run) {
                eprintln!("{name}: {input:?}\nto rerun it: FORKPOOL_SEED={seed} cargo test --lib fuzz");
                std::panic::resume_unwind(problem);
            }
        }
    }
}

/// Inputs that took all time, memory or stack once.
fn attacks() -> Vec<Vec<u8>> {
    let number = |number: u64| postcard::to_stdvec(&number).unwrap_or_default();
    let frames = |messages: Vec<FromWorker>| {
        let mut out = Vec::new();
        messages.iter().for_each(|message| frame::append(&mut out, message));
        out
    };
    let held = |starts: Vec<u64>| FromWorker::Lent(Lending { lent: Vec::new(), held: Some(starts) });
    let own = |slot| Lent::Own { slot, span: ArenaSpan { start: 0, length: 65_536 } };
    let lent = |lent| FromWorker::Lent(Lending { lent, held: None });
    let logged = |record| FromWorker::Logged(Box::new(Logged { call: 1, at: 0, record }));
    let mut rng = SeededRng::new(1);
    let source = CallsiteInfo { fields: vec!["text".to_owned()], ..CallsiteInfo::draw(&mut rng) };
    let open = |span: u64| {
        let values = vec![(0, Value::Text("x".repeat(50)))];
        logged(Record::Opened { span, parent: None, source: source.clone(), values })
    };
    vec![
        vec![1; 1 << 20],
        vec![2; 1 << 20],
        vec![255; 1 << 20],
        number(1 << 60),
        [number(100_000).repeat(100), vec![0; 100_000]].concat(),
        frames(vec![held(vec![0; 60_000]), held(vec![20_480; 60_000])]),
        frames(vec![held((0..60_000).collect()), held((0..60_000).map(|page| page * 4096).collect())]),
        frames(vec![
            lent((0..20_000).map(own).collect()),
            lent((0..65_536).map(|_| Lent::Given { start: 0 }).collect()),
        ]),
        frames(
            (0..3_000).map(open).chain((0..3_000).map(|_| logged(Record::Closed { span: 9_999 }))).collect(),
        ),
        frames(vec![logged(Record::Data { name: "x".repeat(60_000), value: "[".repeat(1 << 20) })]),
    ]
}
