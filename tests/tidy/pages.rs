//! What the pages for readers name exists.

use std::fs;
use std::path::{Path, PathBuf};

use crate::markdown;
use crate::sources::{at, read};

/// Words in code that begin so are paths of this repository.
const ROOMS: [&str; 7] = ["src/", "actors/", "tests/", "benches/", "examples/", "docs/", ".ci/"];

/// Hosts of package registries. A page links to a project or to its documentation instead.
const REGISTRIES: [&str; 12] = [
    "crates.io",
    "hackage.haskell.org",
    "hex.pm",
    "lib.rs",
    "npmjs.com",
    "npmjs.org",
    "nuget.org",
    "packagist.org",
    "proxy.golang.org",
    "pypi.org",
    "pythonhosted.org",
    "rubygems.org",
];

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    for page in pages() {
        let text = markdown::prose(&read(&page));
        let links = markdown::links(&text);
        for link in links.into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { beside(&page, path) };
            assert!(target.exists(), "{} links to {link}, which is not there", page.display());
            if !anchor.is_empty() {
                let anchors = markdown::anchors(&markdown::prose(&read(&target)));
                let is_there = anchors.iter().any(|other| other == anchor);
                assert!(is_there, "{} links to {link}, which has no such heading", page.display());
            }
        }
    }
}

#[test]
fn every_path_that_a_page_names_is_there() {
    for page in pages() {
        let text = markdown::prose(&read(&page));
        for word in markdown::words_of_code(&text) {
            let is_path = ROOMS.iter().any(|room| word.starts_with(room));
            assert!(!is_path || at(word).exists(), "{} names {word}, which is not there", page.display());
        }
    }
}

#[test]
fn no_page_links_to_a_package_registry() {
    for page in pages() {
        let text = read(&page);
        let hosts =
            text.split("://").skip(1).filter_map(|rest| rest.split(|char| !is_of_a_host(char)).next());
        for host in hosts {
            let is_of = |registry: &str| host == registry || host.ends_with(&format!(".{registry}"));
            assert!(!REGISTRIES.iter().any(|registry| is_of(registry)), "{} links to {host}", page.display());
        }
    }
}

fn is_of_a_host(char: char) -> bool {
    char.is_ascii_alphanumeric() || ".-".contains(char)
}

/// The pages at the root, of which CONTRIBUTING.md may be missing, and those of `docs`.
fn pages() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "CHANGELOG.md"].map(at).to_vec();
    found.extend(Some(at("CONTRIBUTING.md")).filter(|page| page.is_file()));
    let docs = fs::read_dir(at("docs")).expect("docs is there").flatten().map(|entry| entry.path());
    found.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    found.sort();
    found
}

fn beside(page: &Path, path: &str) -> PathBuf {
    page.parent().unwrap_or(page).join(path)
}
