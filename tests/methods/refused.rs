//! What cannot be a call is refused at its own line, in words a user can act on.

/// The programs of `refused` and what the compiler says of each. After a change of an error text
/// `TRYBUILD=overwrite cargo test -p forkpool-methods` writes the files. What only types tell is in `tests/interface.rs`.
#[test]
fn what_cannot_be_a_call_is_refused_at_its_own_line() {
    trybuild::TestCases::new().compile_fail("refused/*.rs");
}
