//! Whether an application and a server can work together, and if not, why.

use crate::config::SharedOptions;
use crate::wire::control::{Hello, Signature};
use crate::wire::{LIBRARY, PROTOCOL};

/// The protocol and interface that a server offers.
pub(super) struct ServerVersion {
    /// Identifies the interface between builds of one program.
    pub(super) fingerprint: u64,
    /// Identifies the interface to other programs; empty for a private server.
    pub(super) interface: Vec<Signature>,
}

impl ServerVersion {
    /// Returns why the sender of this hello cannot use this server, or `None` if it can.
    pub(super) fn mismatch(&self, hello: &Hello) -> Option<String> {
        if hello.protocol != PROTOCOL {
            return Some(protocol_mismatch(hello.protocol, &hello.library));
        }
        if let Err(error) = options_of(hello).validate() {
            return Some(error.to_string());
        }
        if self.interface.is_empty() {
            let (own, theirs) = (self.fingerprint, hello.fingerprint);
            let differs = || {
                format!(
                    "the application's interface has the fingerprint {theirs:016x}, its server's {own:016x}"
                )
            };
            return (own != theirs).then(differs);
        }
        if hello.interface == self.interface {
            return None;
        }
        let own = list(&self.interface);
        let theirs = list(&hello.interface);
        let difference = difference(&hello.interface, &self.interface);
        Some(format!(
            "the application's interface (forkpool {}) is {theirs}, and this server's (forkpool {LIBRARY}) is {own}: \
             {difference}",
            hello.library
        ))
    }
}

fn options_of(hello: &Hello) -> SharedOptions<'_> {
    SharedOptions {
        name: &hello.pool,
        max_payload: hello.max_payload,
        max_memory: hello.max_memory,
        memory_limit: hello.process_limits.memory_limit,
        hung_worker_timeout: hello.process_limits.hung_worker_timeout,
        kill_grace: hello.process_limits.kill_grace,
    }
}

/// Returns the reason for refusing an application that uses another protocol version.
pub(super) fn protocol_mismatch(protocol: u16, library: &str) -> String {
    format!(
        "the application speaks protocol {protocol} of forkpool {library}, and this server protocol {PROTOCOL} of \
         forkpool {LIBRARY}"
    )
}

fn list(interface: &[Signature]) -> String {
    let names: Vec<&str> = interface.iter().map(|signature| signature.name.as_str()).collect();
    format!("{{ {} }}", names.join(", "))
}

/// Returns a text for the first difference between two interfaces.
fn difference(theirs: &[Signature], own: &[Signature]) -> String {
    let find = |all: &[Signature], name: &str| all.iter().find(|signature| signature.name == name).cloned();
    if let Some(missing) = theirs.iter().find(|their| find(own, &their.name).is_none()) {
        return format!("the server has no {}", missing.name);
    }
    if let Some(missing) = own.iter().find(|our| find(theirs, &our.name).is_none()) {
        return format!("the application has no {}", missing.name);
    }
    let changed = theirs.iter().find(|their| find(own, &their.name).is_some_and(|our| our != **their));
    match changed {
        Some(changed) => format!("{} or its result looks different there", changed.name),
        None => "their order differs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::BacktraceStyle;
    use crate::wire::control::ProcessLimits;

    fn interface(signatures: &[(&str, u64)]) -> Vec<Signature> {
        let signature = |&(name, shape): &(&str, u64)| Signature { name: name.to_owned(), shape };
        signatures.iter().map(signature).collect()
    }

    fn hello(protocol: u16, library: &str, signatures: &[(&str, u64)]) -> Hello {
        Hello {
            protocol,
            library: library.to_owned(),
            fingerprint: 7,
            interface: interface(signatures),
            pool: "passwords".to_owned(),
            max_payload: 1,
            max_depth: 1,
            max_memory: None,
            process_limits: ProcessLimits::default(),
            backtrace: BacktraceStyle::Off,
            config: None,
        }
    }

    /// S11
    #[test]
    fn a_mismatch_names_both_sides_and_what_differs() {
        let own = ServerVersion { fingerprint: 0, interface: interface(&[("Hash", 1), ("Verify", 2)]) };
        type Row<'a> = (&'a str, u16, &'a [(&'a str, u64)], Option<&'a str>);
        let table: [Row<'_>; 7] = [
            ("the same", PROTOCOL, &[("Hash", 1), ("Verify", 2)], None),
            ("another protocol", 3, &[("Hash", 1), ("Verify", 2)], Some("protocol 3 of forkpool 9.8.7")),
            ("one more", PROTOCOL, &[("Hash", 1), ("Verify", 2), ("New", 3)], Some("server has no New")),
            ("one less", PROTOCOL, &[("Hash", 1)], Some("application has no Verify")),
            ("another shape", PROTOCOL, &[("Hash", 1), ("Verify", 3)], Some("Verify or its result looks")),
            ("another order", PROTOCOL, &[("Verify", 2), ("Hash", 1)], Some("their order differs")),
            ("none", PROTOCOL, &[], Some("application has no Hash")),
        ];
        for (row, protocol, signatures, expected) in table {
            let found = own.mismatch(&hello(protocol, "9.8.7", signatures));
            match expected {
                None => assert_eq!(found, None, "{row}"),
                Some(expected) => {
                    let found = found.unwrap_or_default();
                    let names_both = found.contains("9.8.7") && found.contains(LIBRARY);
                    assert!(names_both && found.contains(expected), "{row}: {found}");
                }
            }
        }
    }

    /// P1, S9
    #[test]
    fn impossible_numbers_are_refused_as_the_options_that_they_are() {
        type Spoil = fn(&mut Hello);
        let table: [(&str, Spoil); 7] = [
            ("name", |hello| hello.pool = "x".repeat(65)),
            ("name", |hello| hello.pool = "one\ntwo".to_owned()),
            ("max_payload", |hello| hello.max_payload = 0),
            ("max_payload", |hello| hello.max_payload = u64::MAX),
            ("max_memory", |hello| hello.max_memory = Some(0)),
            ("memory_limit", |hello| hello.process_limits.memory_limit = Some(0)),
            ("hung_worker_timeout", |hello| {
                hello.process_limits.hung_worker_timeout = Some(std::time::Duration::ZERO);
            }),
        ];
        let own = ServerVersion { fingerprint: 7, interface: Vec::new() };
        for (option, spoil) in table {
            let mut hello = hello(PROTOCOL, LIBRARY, &[]);
            assert_eq!(own.mismatch(&hello), None);
            spoil(&mut hello);
            let found = own.mismatch(&hello).unwrap_or_default();
            assert!(found.starts_with(&format!("option {option} cannot be")), "{found}");
        }
    }
}
