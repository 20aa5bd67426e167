//! Names that methods cannot have, and the version that two packages have.

use crate::expansion::names::TAKEN;

/// What the address of a checkout has, and handles have from traits that are always in scope.
const OF_OTHERS: [&str; 10] = [
    "call",
    "clone",
    "connected",
    "downgrade",
    "into",
    "recipient",
    "send_batch",
    "to_owned",
    "try_into",
    "try_send",
];

/// A call of such a name would be another method of the handle.
#[test]
fn every_method_of_a_handle_is_a_name_that_calls_cannot_have() {
    let listing = concat!(env!("CARGO_MANIFEST_DIR"), "/../listing/public-names.txt");
    let listing = std::fs::read_to_string(listing).expect("the listing is there");
    let handles =
        ["PoolHandle", "ClassHandle", "CheckoutHandle"].map(|name| format!("fn forkpool::{name}::"));
    let of_handles =
        listing.lines().filter_map(|line| handles.iter().find_map(|handle| line.strip_prefix(handle)));
    let mut found: Vec<&str> = of_handles.chain(OF_OTHERS).collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(TAKEN, found);
}

#[test]
fn the_macros_are_published_with_the_version_that_forkpool_takes() {
    let read = |path: &str| {
        let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).expect("the manifest is there")
    };
    let version = |manifest: &str| {
        let line = manifest.lines().find_map(|line| line.strip_prefix("version = \"")).map(str::to_owned);
        line.expect("a package has a version").trim_end_matches('"').to_owned()
    };
    let (forkpool, macros) = (read("Cargo.toml"), read("actors/macros/Cargo.toml"));
    assert_eq!(version(&forkpool), version(&macros));
    let taken = format!("forkpool-macros = {{ version = \"={}\"", version(&macros));
    assert!(forkpool.contains(&taken), "forkpool does not have {taken}");
}
