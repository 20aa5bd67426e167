//! As much of markdown as the pages of this repository use.

/// Returns a page with its fenced blocks of code blanked.
pub fn prose(page: &str) -> String {
    let mut is_fenced = false;
    let mut found = String::new();
    for line in page.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        found.push_str(if is_fenced || is_fence { "" } else { line });
        found.push('\n');
    }
    found
}

/// Returns the targets of the links and pictures in a page's prose, as they are written.
pub fn links(prose: &str) -> Vec<&str> {
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let defined =
        prose.lines().filter(|line| line.starts_with('[')).filter_map(|line| line.split_once("]: "));
    let targets = inline.chain(defined.map(|(_, target)| target));
    targets.filter_map(|target| target.split_whitespace().next()).collect()
}

/// Returns the words in a page's spans of code.
pub fn words_of_code(prose: &str) -> Vec<&str> {
    let spans = prose.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.flat_map(str::split_whitespace).collect()
}

/// Returns what links to a page's headings are called.
pub fn anchors(prose: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    for heading in headings.map(|line| line.trim_start_matches('#')).filter(|line| line.starts_with(' ')) {
        let name = anchor(heading.trim());
        let again = found.iter().filter(|other| **other == name).count();
        found.push(name.clone());
        if again > 0 {
            found.push(format!("{name}-{again}"));
        }
    }
    found
}

/// In small letters, with hyphens for spaces, and without all else but letters, digits, hyphens and underscores.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[test]
fn links_words_and_anchors_are_found_outside_of_fences() {
    let page = "# A `b`, and c's\n[x](y.md#z) ![p](q.svg \"title\")\n```rust\n[no](no)\n# no\n```\n## Same\n## Same\n\
        see `src/a.rs` or `cargo test src/b.rs`\n[r]: https://example.org/s\n";
    let prose = prose(page);
    assert_eq!(links(&prose), ["y.md#z", "q.svg", "https://example.org/s"]);
    assert_eq!(words_of_code(&prose), ["b", "src/a.rs", "cargo", "test", "src/b.rs"]);
    assert_eq!(anchors(&prose), ["a-b-and-cs", "same", "same", "same-1"]);
}
