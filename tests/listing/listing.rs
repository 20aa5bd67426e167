//! public-names.txt lists every name that users of the library can reach, so that a change of them shows in a review.
//!
//! `modules` reads the sources, with `attributes` and `expansion`; `resolution` follows paths; `names` and
//! `implementations` make the lines; `text` writes paths; `tests` has small sources for each form.

mod attributes;
mod expansion;
mod implementations;
mod modules;
mod names;
mod resolution;
mod tests;
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

const LISTING: &str = "tests/listing/public-names.txt";
const REWRITES: &str = "FORKPOOL_WRITE_LISTING=1 cargo test -p forkpool-listing";

#[test]
fn the_listing_has_every_public_name() {
    let others = others(&read("Cargo.toml").expect("Cargo.toml is there"));
    let library = modules::load("src/lib.rs", others, &read);
    let found = names::list(&library);
    if env::var_os("FORKPOOL_WRITE_LISTING").is_some() {
        let lines: String = found.iter().map(|line| format!("{line}\n")).collect();
        fs::write(at(LISTING), lines).expect("the listing can be written");
        return;
    }
    let listing = read(LISTING).unwrap_or_default();
    if let Some(difference) = difference(&listing, &found) {
        panic!("{difference}");
    }
}

/// Says which names are new and which are gone, if there are any.
fn difference(listing: &str, found: &BTreeSet<String>) -> Option<String> {
    let listed: BTreeSet<&str> = listing.lines().collect();
    let gone = listed.iter().filter(|line| !found.contains(**line)).map(|line| format!("- {line}\n"));
    let new = found.iter().filter(|line| !listed.contains(line.as_str())).map(|line| format!("+ {line}\n"));
    let lines: String = new.chain(gone).collect();
    (!lines.is_empty()).then(|| {
        format!(
            "the public names differ from {LISTING}:\n\n{lines}\nIf users shall see this change, run\n\n    \
            {REWRITES}\n\nand commit the file. A line that is gone breaks the programs that use the name."
        )
    })
}

/// The crates that a path in the sources may begin with.
fn others(manifest: &str) -> BTreeSet<String> {
    let sections = manifest.split("\n[").filter(|section| section.starts_with("dependencies]"));
    let lines = sections.flat_map(str::lines);
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_"));
    names.chain(["alloc", "core", "std"].map(str::to_owned)).collect()
}

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(at(path)).ok()
}

#[test]
fn a_difference_names_the_lines_and_the_command() {
    let found = ["fn forkpool::a", "fn forkpool::c"].map(str::to_owned).into();
    assert_eq!(difference("fn forkpool::a\nfn forkpool::c\n", &found), None);
    let text = difference("fn forkpool::a\nfn forkpool::b\n", &found).expect("they differ");
    assert!(text.contains("\n\n+ fn forkpool::c\n- fn forkpool::b\n\n"), "{text}");
    assert!(text.contains(REWRITES), "{text}");
}

#[test]
fn other_crates_are_the_dependencies_and_those_of_the_compiler() {
    let manifest = "[package]\nname = \"a\"\n\n[dependencies]\nb-c = \"1\"\nd = { version = \"1\" }\n\n\
        [dev-dependencies]\ne = \"1\"\n";
    let expected = ["alloc", "b_c", "core", "d", "std"].map(str::to_owned);
    assert_eq!(others(manifest), expected.into());
}
