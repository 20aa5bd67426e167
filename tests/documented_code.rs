//! README.md and some pages of docs/ show code that compiles and runs: each block is a marked part of
//! a program.
//!
//! A block of Rust stands behind a line such as `<!-- examples/from_sync_arbiter.rs: before -->`. In that file the part is
//! between `// shown: before` and `// end: before`; a part may contain others. The parts of `from_sync_arbiter` run here,
//! those of the other programs in their own tests, since they need further crates. The README's own
//! program, marked `no_run`, is a documentation test of the crate.

use std::path::Path;
use std::time::Duration;

use forkpool::prelude::*;

#[path = "../examples/from_sync_arbiter.rs"]
#[allow(dead_code, reason = "only main calls some of it")]
mod from_sync_arbiter;

use from_sync_arbiter::{both, functions, methods, processes, threads};

const MIGRATING: &str = "docs/MIGRATING.md";
const PAGES: [&str; 6] =
    ["README.md", "docs/JOBS.md", "docs/METHODS.md", MIGRATING, "docs/OBSERVABILITY.md", "docs/WEB.md"];

/// Programs of which every marked part has to be on a page.
const PROGRAMS: [&str; 14] = [
    "examples/actix_web_app.rs",
    "examples/axum_service.rs",
    "examples/durable_jobs/adapter.rs",
    "examples/durable_jobs/main.rs",
    "examples/durable_jobs/redis.rs",
    "examples/from_sync_arbiter.rs",
    "examples/from_web_block.rs",
    "examples/tonic_service.rs",
    "tests/documented_code.rs",
    "tests/jobs/example.rs",
    "tests/methods/documented.rs",
    "tests/observability/recipes.rs",
    "tests/pool/console_ends.rs",
    "tests/web/bodies.rs",
];

/// A block of a page, and the part of a program that it shows.
struct Block {
    page: &'static str,
    program: String,
    part: String,
    text: String,
}

#[test]
fn every_block_of_rust_is_a_part_of_a_program() {
    for Block { page, program, part, text } in blocks() {
        let parts = parts(&read(&program));
        let source = parts.iter().find(|(name, _)| *name == part);
        let (_, source) = source.unwrap_or_else(|| panic!("{program} has no part {part:?}, see {page}"));
        assert_eq!(&text, source, "{page} and {program} differ in {part:?}");
    }
}

#[test]
fn every_part_of_the_programs_is_on_a_page() {
    let blocks = blocks();
    for program in PROGRAMS {
        for (part, _) in parts(&read(program)) {
            let is_shown = blocks.iter().any(|block| block.program == program && block.part == part);
            assert!(is_shown, "no page shows {part:?} of {program}");
        }
    }
}

/// The first column of the table of names has options of a pool, and all of them.
#[test]
fn the_table_of_names_has_every_option_of_a_pool() {
    let page = read(MIGRATING);
    let (_, section) = page.split_once("\n## Names of options").expect("the page compares names");
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let names: Vec<&str> = cells.flat_map(|cell| cell.split(['`', ',', ' '])).collect();

    let builder = read("actors/api/pool_builder.rs");
    let options = builder.split("    pub fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
    for option in options {
        assert!(names.contains(&option), "{MIGRATING} does not compare the name {option}");
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
async fn messages_methods_and_functions_answer_alike() {
    let by_messages = processes::start(1, 1000).expect("the pool starts");
    let by_methods = methods::start(1, 1000).expect("the pool starts");
    for (a, b) in [(84, 2), (1001, 2)] {
        let before = processes::divide(&by_messages, a, b).await.map_err(|error| error.to_string());
        let after = methods::divide(&by_methods, a, b).await.map_err(|error| error.to_string());
        assert_eq!(before, after, "{a} / {b}");
    }
    assert_eq!(methods::divide_twice(&by_methods, 84, 2).await.expect("an answer"), 21);

    let by_both = Pool::<both::Divider>::builder(()).workers(1..=1).start().expect("the pool starts");
    assert_eq!(by_both.send(both::Divide { a: 85, b: 2 }).await.expect("an answer"), 42);
    assert_eq!(both::DividerCalls::remainder(&by_both, 85, 2).await.expect("an answer"), 1);

    let by_function =
        Pool::<functions::Arithmetic>::builder(()).workers(1..=1).start().expect("the pool starts");
    assert_eq!(functions::half(&by_function, 84).await.expect("an answer"), 42);

    by_messages.stop(Duration::ZERO).await;
    by_methods.stop(Duration::ZERO).await;
    by_both.stop(Duration::ZERO).await;
    by_function.stop(Duration::ZERO).await;
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

/// The blocks of Rust on all pages, each of which must have its line.
fn blocks() -> Vec<Block> {
    let found: Vec<_> = PAGES.into_iter().flat_map(blocks_of).collect();
    for page in PAGES {
        assert!(found.iter().any(|block| block.page == page), "{page} has no block of Rust");
    }
    found
}

fn blocks_of(page: &'static str) -> Vec<Block> {
    let text = read(page);
    let mut found = Vec::new();
    let mut above = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```rust") && !line.contains("no_run") {
            let inner = above.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"));
            let (program, part) = inner.and_then(|line| line.split_once(": ")).unwrap_or_else(|| {
                panic!("{page}: the line above a block of Rust names no program, but is {above:?}")
            });
            let text: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            found.push(Block { page, program: program.into(), part: part.into(), text: text.join("\n") });
        }
        above = line;
    }
    found
}

/// The marked parts of a source, by name, without the indentation that their lines share, and without the marks of the
/// parts inside.
fn parts(source: &str) -> Vec<(String, String)> {
    let mark = |line: &str, kind: &str| line.trim().strip_prefix(kind).map(str::to_owned);
    let mut found = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let Some(name) = mark(line, "// shown: ") else { continue };
        let indentation = line.len() - line.trim_start().len();
        let rest: Vec<&str> = source.lines().skip(number + 1).collect();
        let end = rest.iter().position(|line| mark(line, "// end: ").as_deref() == Some(&name));
        let end = end.unwrap_or_else(|| panic!("the part {name:?} has no end"));
        let inner = rest[..end].iter();
        let inner =
            inner.filter(|line| mark(line, "// shown: ").or_else(|| mark(line, "// end: ")).is_none());
        let inner: Vec<&str> = inner.map(|line| line.get(indentation..).unwrap_or_default()).collect();
        found.push((name, inner.join("\n")));
    }
    found
}

/// What the README shows beside its first program.
#[allow(dead_code, reason = "a server is started by its own tests")]
mod readme {
    use std::error::Error;
    use std::fs::File;

    use actix::prelude::*;
    use forkpool::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Message, Serialize, Deserialize)]
    #[rtype(result = "Result<String, Failure>")]
    struct Hash {
        plaintext: String,
    }

    #[derive(Message, Serialize, Deserialize)]
    #[rtype(result = "Result<Blob, Failure>")]
    struct Shrink(Blob);

    struct Hasher;

    impl Actor for Hasher {
        type Context = WorkerContext<Self>;
    }

    impl Worker for Hasher {
        type Config = u32;

        fn setup(_: u32, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
            Ok(Hasher)
        }
    }

    impl Handler<Hash> for Hasher {
        type Result = Result<String, Failure>;

        fn handle(&mut self, message: Hash, ctx: &mut WorkerContext<Self>) -> Self::Result {
            if message.plaintext.is_empty() {
                return Err(Failure::task("the password is empty"));
            }
            ctx.log().info("hashing");
            Ok(message.plaintext.chars().rev().collect())
        }
    }

    impl Handler<Shrink> for Hasher {
        type Result = Result<Blob, Failure>;

        fn handle(&mut self, Shrink(image): Shrink, ctx: &mut WorkerContext<Self>) -> Self::Result {
            let half = image.len() / 2;
            let mut small = ctx.blob(half)?;
            std::io::copy(&mut std::io::Read::take(image.reader(), half as u64), &mut small)
                .map_err(|error| Failure::task(error.to_string()))?;
            Ok(small.freeze())
        }
    }

    forkpool::interface!(Hasher { Hash, Shrink });
    forkpool::boot!(Hasher);

    #[actix::test]
    async fn a_blob_travels_both_ways() -> Result<(), Box<dyn Error>> {
        let pool = Pool::<Hasher>::builder(1).workers(1..=1).start()?;
        let mut file = File::open("Cargo.toml")?;
        let length = usize::try_from(file.metadata()?.len())?;
        // shown: blobs
        let mut image = pool.blob(length)?; // in a handler: ctx.blob(length)?
        image.fill_from(&mut file)?; // BlobMut is an io::Write as well
        let small = pool.send(Shrink(image.freeze())).await?; // struct Shrink(Blob), answered with another Blob
        let mut reader = small.reader(); // BlobReader is an io::BufRead
        // end: blobs
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text)?;
        assert_eq!(text, std::fs::read_to_string("Cargo.toml")?[..length / 2]);
        Ok(())
    }

    #[actix::test]
    async fn a_checkout_writes_to_a_log() -> Result<(), Box<dyn Error>> {
        let pool = Pool::<Hasher>::builder(1).workers(1..=1).start()?;
        let plaintext = "secret".to_owned();
        // shown: log
        let log = RequestLog::new(|log: FinishedLog| println!("{}", log.to_json())); // or to_text, to_svg
        log.info("signing up");
        let checkout = pool.checkout().log(&log).start(); // in a handler, ctx.log() adds messages, timers and data
        checkout.send(Hash { plaintext }).await??;
        // The log is delivered once the last handle is dropped and the checkout is released.
        // end: log
        Ok(())
    }

    struct RequestId(u64);

    #[actix::test]
    async fn a_failure_arrives_at_its_context() -> Result<(), Box<dyn Error>> {
        let pool = Pool::<Hasher>::builder(1).workers(1..=1).start()?;
        let checkout = pool.checkout().start();
        let plaintext = String::new();
        // shown: context
        let signup = ErrorContext::named("POST /signup")
            .local(RequestId(7)) // ErrorContext::local_value::<RequestId>() returns it inside the frame
            .on_failure(|failure: ContextFailure| println!("{failure}")); // or a Recipient<ContextFailure>
        signup.scope(async { checkout.do_send(Hash { plaintext }) }).await;
        // end: context
        let inside = signup.scope(async { ErrorContext::local_value::<RequestId>().map(|id| id.0) }).await;
        assert_eq!(inside, Some(7));
        Ok(())
    }

    mod a_server {
        use super::Hasher;

        // shown: server
        fn main() -> Result<(), forkpool::ServerError> {
            forkpool::Server::<Hasher>::new(100_000).listen("unix:/run/passwords.sock")?.run()
        }
        // end: server
    }

    #[actix::test]
    async fn a_pool_of_a_server_starts_before_its_server() -> Result<(), Box<dyn Error>> {
        // shown: application
        let pool = Pool::<Hasher>::connect("unix:/run/passwords.sock").workers(1..=4).start()?;
        // end: application
        pool.stop(std::time::Duration::ZERO).await;
        Ok(())
    }
}
