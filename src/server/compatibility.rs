//! Whether an application and a server can work together, and if not, why.

use crate::config::SharedOptions;
use crate::wire::control::{Hello, Signature};
use crate::wire::handover::TakeOver;
use crate::wire::{LIBRARY, PROTOCOL};
use crate::worker::Numbering;

/// The protocol and interface that a server offers.
pub(super) struct ServerVersion {
    /// Identifies the interface between builds of one program.
    pub(super) fingerprint: u64,
    /// Identifies the interface to other programs; empty for a private server.
    pub(super) interface: Vec<Signature>,
}

impl ServerVersion {
    /// Agrees with the sender of this hello on how it numbers its messages.
    ///
    /// # Errors
    ///
    /// The reason why it cannot use this server, as a text for it.
    pub(super) fn agree(&self, hello: &Hello) -> Result<Numbering, String> {
        if hello.protocol != PROTOCOL {
            return Err(protocol_mismatch(hello.protocol, &hello.library));
        }
        options_of(hello).validate().map_err(|error| error.to_string())?;
        if self.interface.is_empty() {
            let (own, theirs) = (self.fingerprint, hello.fingerprint);
            return match own == theirs {
                true => Ok(Numbering::default()),
                false => Err(format!(
                    "the application's interface has the fingerprint {theirs:016x}, its server's {own:016x}"
                )),
            };
        }
        number(&hello.interface, &self.interface).map(Numbering::new).map_err(|difference| {
            let (own, theirs) = (list(&self.interface), list(&hello.interface));
            format!(
                "the application's interface (forkpool {}) is {theirs}, and this server's (forkpool {LIBRARY}) is {own}: \
                 {difference}",
                hello.library
            )
        })
    }
}

/// Returns why a client of this server cannot use its successor, or `None` if it can.
pub(super) fn misfit(client: &Hello, successor: &TakeOver) -> Option<String> {
    if successor.protocol != PROTOCOL {
        return Some(format!(
            "it speaks protocol {PROTOCOL} of forkpool {}, and the new server protocol {} of forkpool {}",
            client.library, successor.protocol, successor.library
        ));
    }
    number(&client.interface, &successor.interface).err()
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

/// Returns the server's number of each message that the client may send, in the client's order.
///
/// # Errors
///
/// A text for the first message that the server does not have in this shape.
fn number(theirs: &[Signature], own: &[Signature]) -> Result<Vec<u32>, String> {
    // Two messages may have the same name and shape. Then the first of one side is the first of the other.
    let mut is_used = vec![false; own.len()];
    let mut numbers = Vec::with_capacity(theirs.len());
    for their in theirs {
        let same = own.iter().zip(&is_used).position(|(own, is_used)| own == their && !is_used);
        let (number, at) =
            same.and_then(|at| Some((u32::try_from(at).ok()?, at))).ok_or_else(|| difference(their, own))?;
        is_used[at] = true;
        numbers.push(number);
    }
    Ok(numbers)
}

/// Returns a text for what a server does not have.
fn difference(their: &Signature, own: &[Signature]) -> String {
    let Signature { name, message, result, .. } = their;
    let Some(own) = own.iter().find(|own| own.name == *name) else {
        return format!("the server has no {name}");
    };
    let part = if own.message != *message {
        "the message"
    } else if own.result != *result {
        "the result of"
    } else if own.error != their.error {
        "the error of"
    } else {
        return format!("the server has fewer messages of the name {name}");
    };
    format!("{part} {name} has another type there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::BacktraceStyle;
    use crate::wire::control::{Parking, ProcessLimits};

    fn interface(signatures: &[(&str, [u64; 3])]) -> Vec<Signature> {
        let signature = |&(name, [message, result, error]): &(&str, [u64; 3])| Signature {
            name: name.to_owned(),
            message,
            result,
            error,
        };
        signatures.iter().map(signature).collect()
    }

    fn hello(protocol: u16, library: &str, signatures: &[(&str, [u64; 3])]) -> Hello {
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
            parking: Parking::Never,
            config: None,
        }
    }

    const HASH: (&str, [u64; 3]) = ("Hash", [1, 2, 3]);
    const VERIFY: (&str, [u64; 3]) = ("Verify", [4, 5, 3]);

    /// S11
    #[test]
    fn a_mismatch_names_both_sides_and_what_differs() {
        let own = ServerVersion { fingerprint: 0, interface: interface(&[HASH, VERIFY]) };
        type Row<'a> = (&'a str, u16, &'a [(&'a str, [u64; 3])], Result<&'a [u32], &'a str>);
        let table: [Row<'_>; 10] = [
            ("the same", PROTOCOL, &[HASH, VERIFY], Ok(&[0, 1])),
            ("another protocol", 3, &[HASH, VERIFY], Err("protocol 3 of forkpool 9.8.7")),
            ("one more", PROTOCOL, &[HASH, VERIFY, ("New", [7; 3])], Err("server has no New")),
            ("one less", PROTOCOL, &[VERIFY], Ok(&[1])),
            ("another message", PROTOCOL, &[HASH, ("Verify", [9, 5, 3])], Err("the message Verify has")),
            ("another result", PROTOCOL, &[("Hash", [1, 9, 3])], Err("the result of Hash has")),
            ("another error", PROTOCOL, &[("Hash", [1, 2, 9])], Err("the error of Hash has")),
            ("another order", PROTOCOL, &[VERIFY, HASH], Ok(&[1, 0])),
            ("twice", PROTOCOL, &[HASH, HASH], Err("the server has fewer messages of the name Hash")),
            ("none", PROTOCOL, &[], Ok(&[])),
        ];
        for (row, protocol, signatures, expected) in table {
            let found = own.agree(&hello(protocol, "9.8.7", signatures));
            match (expected, found) {
                (Ok(numbers), found) => assert_eq!(found, Ok(Numbering::new(numbers.to_vec())), "{row}"),
                (Err(expected), found) => {
                    let found = found.expect_err(row);
                    let names_both = found.contains("9.8.7") && found.contains(LIBRARY);
                    assert!(names_both && found.contains(expected), "{row}: {found}");
                }
            }
        }
        let twice = ServerVersion { fingerprint: 0, interface: interface(&[VERIFY, HASH, HASH]) };
        assert_eq!(twice.agree(&hello(PROTOCOL, "", &[HASH, HASH])), Ok(Numbering::new(vec![1, 2])));
    }

    /// S4
    #[test]
    fn a_client_fits_a_successor_that_has_its_messages() {
        let successor = |protocol, signatures: &[(&str, [u64; 3])]| TakeOver {
            format: 1,
            protocol,
            library: "9.9.9".to_owned(),
            interface: interface(signatures),
            waits: true,
            stays: true,
        };
        let client = hello(PROTOCOL, "9.8.7", &[HASH]);
        assert_eq!(misfit(&client, &successor(PROTOCOL, &[VERIFY, HASH])), None);
        let removed = misfit(&client, &successor(PROTOCOL, &[VERIFY])).unwrap_or_default();
        assert_eq!(removed, "the server has no Hash");
        let other = misfit(&client, &successor(PROTOCOL + 1, &[HASH])).unwrap_or_default();
        assert!(other.contains("9.8.7") && other.contains("9.9.9"), "{other}");
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
            assert_eq!(own.agree(&hello), Ok(Numbering::default()));
            spoil(&mut hello);
            let found = own.agree(&hello).expect_err(option);
            assert!(found.starts_with(&format!("option {option} cannot be")), "{found}");
        }
    }
}
