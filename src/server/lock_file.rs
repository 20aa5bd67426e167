//! What is in the lock file of a socket path, as text.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Identifies a file or a socket in the file system, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketId {
    device: u64,
    inode: u64,
}

impl SocketId {
    pub(super) fn of(found: &Metadata) -> Self {
        SocketId { device: found.dev(), inode: found.ino() }
    }
}

/// The contents of a lock file. The first line is the pid alone; people and older servers read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LockText {
    /// `None` in a file that was just created.
    pid: Option<u32>,
    /// The PID namespace in which the server has that pid.
    namespace: Option<u64>,
    /// The socket that the server has made at the path.
    pub(super) socket: Option<SocketId>,
    /// The secret of the path.
    pub(super) key: Option<u128>,
}

impl LockText {
    /// Longest contents, in bytes.
    pub(super) const MAX_LENGTH: usize = 256;

    /// Returns the contents that this process writes.
    pub(super) fn of_this_process(socket: Option<SocketId>, key: Option<u128>) -> Self {
        LockText { pid: Some(std::process::id()), namespace: own_namespace(), socket, key }
    }

    /// Parses the contents of a file; `None` if it is no lock file. Lines with an unknown beginning are skipped.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        let mut text = LockText::default();
        let Some(first) = lines.next() else { return Some(text) };
        text.pid = Some(first.trim().parse().ok()?);
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["namespace", inode] => text.namespace = inode.parse().ok(),
                ["socket", device, inode] => {
                    let numbers = device.parse().ok().zip(inode.parse().ok());
                    text.socket = numbers.map(|(device, inode)| SocketId { device, inode });
                }
                ["key", number] => text.key = u128::from_str_radix(number, 16).ok(),
                _ => {}
            }
        }
        Some(text)
    }

    /// Returns the pid if it is of this process's PID namespace, or of an older server, which wrote none.
    pub(super) fn pid_here(&self) -> Option<u32> {
        self.pid.filter(|_| self.namespace.is_none() || self.namespace == own_namespace())
    }
}

impl fmt::Display for LockText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.pid.unwrap_or(0))?;
        if let Some(inode) = self.namespace {
            writeln!(f, "namespace {inode}")?;
        }
        if let Some(SocketId { device, inode }) = self.socket {
            writeln!(f, "socket {device} {inode}")?;
        }
        self.key.map_or(Ok(()), |key| writeln!(f, "key {key:032x}"))
    }
}

/// Identifies the PID namespace of this process; `None` without `/proc`.
fn own_namespace() -> Option<u64> {
    std::fs::metadata("/proc/self/ns/pid").ok().map(|found| found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S10
    #[test]
    fn a_lock_file_is_read_as_it_is_written_and_nothing_else_is_one() {
        let socket = SocketId { device: u64::MAX, inode: u64::MAX };
        let longest = LockText {
            pid: Some(u32::MAX),
            namespace: Some(u64::MAX),
            socket: Some(socket),
            key: Some(u128::MAX),
        };
        let written = longest.to_string();
        assert!(written.len() <= LockText::MAX_LENGTH, "{written}");
        assert_eq!(LockText::parse(written.as_bytes()), Some(longest));
        let own = LockText::of_this_process(None, None);
        assert_eq!(LockText::parse(own.to_string().as_bytes()), Some(own.clone()));
        assert_eq!(own.pid_here(), Some(std::process::id()));
        assert_eq!(LockText { namespace: Some(1), ..own }.pid_here(), None, "of another namespace");
        let of_older_server = LockText::parse(b"4711\n").unwrap_or_default();
        assert_eq!(of_older_server.pid_here(), Some(4711));
        assert_eq!(LockText::parse(b""), Some(LockText::default()));
        for other in [&b"precious"[..], b"\n4711", b"4711 precious", b"\xff\xfe", b"-1\n"] {
            assert_eq!(LockText::parse(other), None, "{other:?}");
        }
        let of_newer_server = LockText::parse(b"4711\nmood good\nkey 0a\nsocket one 2\n");
        assert_eq!(of_newer_server, Some(LockText { pid: Some(4711), key: Some(10), ..LockText::default() }));
    }
}
