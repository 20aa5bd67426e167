//! The units of docs/DEPLOYMENT.md are what a service manager takes.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the units and the page that shows them are.
fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Name and text of each unit.
fn units() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(docs().join("systemd")).expect("a folder");
    let named = entries.map(|entry| {
        let entry = entry.expect("a file");
        let name = entry.file_name().into_string().expect("a name");
        (name, std::fs::read_to_string(entry.path()).expect("a text"))
    });
    named.collect()
}

/// S1: whoever copies them from the page has what was checked.
#[test]
fn the_page_shows_the_units_as_they_are() {
    let page = std::fs::read_to_string(docs().join("DEPLOYMENT.md")).expect("a text");
    assert_eq!(units().len(), 4);
    for (name, text) in units() {
        assert!(page.contains(&format!("```ini\n{text}```")), "docs/DEPLOYMENT.md shows another {name}");
        assert!(page.contains(&name), "{name}");
    }
}

/// S1: `systemd-analyze verify` has nothing to say of them.
#[test]
fn a_service_manager_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: there is no systemd-analyze here");
        return;
    }
    let folder = std::env::temp_dir().join(format!("forkpool-units-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    let verified = units().into_iter().map(|(name, text)| {
        // It also looks whether the program is there.
        let text = text.replace("/usr/local/bin/password_server", "/bin/sh");
        let text = text.replace("/usr/local/bin/web", "/bin/sh");
        let file = folder.join(name.replace('@', "@1"));
        std::fs::write(&file, text).expect("a file");
        file
    });
    let verified: Vec<PathBuf> = verified.collect();
    let output = Command::new("systemd-analyze").arg("verify").args(verified).output().expect("it runs");
    std::fs::remove_dir_all(&folder).expect("a folder");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
