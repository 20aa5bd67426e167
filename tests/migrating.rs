//! docs/MIGRATING.md shows code that compiles and runs: each of its blocks is a marked part of an example.
//!
//! A block of Rust stands behind a line such as `<!-- examples/from_sync_arbiter.rs: before -->`. In that file the part is
//! between `// MIGRATING: before` and `// end of MIGRATING`. The parts of `from_sync_arbiter` run here, those of
//! `from_web_block` in its own test, since they need actix-web.

use std::path::Path;
use std::time::Duration;

#[path = "../examples/from_sync_arbiter.rs"]
#[allow(dead_code, reason = "only main calls some of it")]
mod from_sync_arbiter;

use from_sync_arbiter::{processes, threads};

const PAGE: &str = "docs/MIGRATING.md";

/// Examples of which every marked part has to be on the page.
const EXAMPLES: [&str; 2] = ["examples/from_sync_arbiter.rs", "examples/from_web_block.rs"];

/// A block of the page, and the part of an example that it shows.
struct Block {
    example: String,
    part: String,
    text: String,
}

#[test]
fn every_block_of_rust_is_a_part_of_an_example() {
    for Block { example, part, text } in blocks() {
        let parts = parts(&read(&example));
        let source = parts.iter().find(|(name, _)| *name == part);
        let (_, source) = source.unwrap_or_else(|| panic!("{example} has no part {part:?}"));
        assert_eq!(&text, source, "{PAGE} and {example} differ in {part:?}");
    }
}

#[test]
fn every_part_of_the_examples_is_on_the_page() {
    let blocks = blocks();
    for example in EXAMPLES {
        for (part, _) in parts(&read(example)) {
            let is_shown = blocks.iter().any(|block| block.example == example && block.part == part);
            assert!(is_shown, "{PAGE} does not show {part:?} of {example}");
        }
    }
}

/// The first column of the table of names has options of a pool, and all of them.
#[test]
fn the_table_of_names_has_every_option_of_a_pool() {
    let page = read(PAGE);
    let (_, section) = page.split_once("\n## Names of options").expect("the page compares names");
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let names: Vec<&str> = cells.flat_map(|cell| cell.split(['`', ',', ' '])).collect();

    let builder = read("actors/api/pool_builder.rs");
    let options = builder.split("    pub fn ").skip(1).filter_map(|rest| rest.split('(').next());
    for option in options {
        assert!(names.contains(&option), "{PAGE} does not compare the name {option}");
    }
}

#[actix::test]
async fn threads_and_processes_answer_alike() {
    let divider = threads::start(1, 1000);
    let pool = processes::start(1, 1000).expect("the pool starts");
    for (a, b) in [(84, 2), (1001, 2)] {
        let before = threads::divide(&divider, a, b).await.map_err(|error| error.to_string());
        let after = processes::divide(&pool, a, b).await.map_err(|error| error.to_string());
        assert_eq!(before, after, "{a} / {b}");
    }
    assert_eq!(processes::divide_at(&pool, 84, 2).await.expect("an answer"), 42);
    assert_eq!(processes::divide_twice(&pool, 84, 2).await.expect("an answer"), 21);
    pool.stop(Duration::ZERO).await;
}

#[actix::test]
async fn a_panic_ends_a_thread_and_is_a_failure_of_its_call_in_a_pool() {
    let divider = threads::start(1, 1000);
    threads::divide(&divider, 1, 0).await.expect_err("the thread panics");
    threads::divide(&divider, 84, 2).await.expect_err("the thread is gone");

    let pool = processes::start(1, 1000).expect("the pool starts");
    let explained = processes::explain(&pool, 1, 0).await;
    assert!(explained.starts_with("a bug: ") && explained.contains("divide by zero"), "{explained}");
    assert_eq!(processes::explain(&pool, 84, 2).await, "42");
    assert_eq!(processes::explain(&pool, 1001, 2).await, "1001 is larger than 1000");
    pool.stop(Duration::ZERO).await;
}

#[actix::test]
async fn a_pool_for_long_calls_starts() {
    let pool = processes::start_for_long_calls(1000).expect("the pool starts");
    assert_eq!(processes::divide(&pool, 84, 2).await.expect("an answer"), 42);
    pool.stop(Duration::ZERO).await;
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The page's blocks of Rust, each of which must have its line.
fn blocks() -> Vec<Block> {
    let page = read(PAGE);
    let mut found = Vec::new();
    let mut above = "";
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```rust") {
            let inner = above.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"));
            let (example, part) = inner.and_then(|line| line.split_once(": ")).unwrap_or_else(|| {
                panic!("{PAGE}: the line above a block of Rust names no example, but is {above:?}")
            });
            let text: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            found.push(Block { example: example.into(), part: part.into(), text: text.join("\n") });
        }
        above = line;
    }
    assert!(!found.is_empty(), "{PAGE} has no block of Rust");
    found
}

/// The marked parts of a source, by name, without the indentation that their lines share.
fn parts(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.trim().strip_prefix("// MIGRATING: ") else { continue };
        let indentation = line.len() - line.trim_start().len();
        let inner = lines.by_ref().take_while(|line| line.trim() != "// end of MIGRATING");
        let inner: Vec<&str> = inner.map(|line| line.get(indentation..).unwrap_or_default()).collect();
        found.push((name.to_owned(), inner.join("\n")));
    }
    found
}
