//! The tests of a program with a `main` of its own, which the test runner of Rust does not find.

/// Tests and their names.
pub type Tests = &'static [(&'static str, fn())];

/// Runs the tests whose names contain the first argument that is no option, or all.
pub fn run_tests(all: &[Tests]) {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let chosen: Vec<_> = all.concat().into_iter().filter(|(name, _)| name.contains(&filter)).collect();
    for (name, test) in &chosen {
        println!("test {name} ...");
        // A panic ends this program, and tells why.
        test();
        println!("test {name} ... ok");
    }
    println!("{} passed, 0 failed", chosen.len());
}

/// Names the tests of a file.
#[allow(unused_macros, reason = "most programs have no main of their own")]
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub const TESTS: crate::harness::Tests = &[$((stringify!($test), $test)),+];
    };
}
pub(crate) use tests;
