//! How a worker of these tests reaches its own channel behind forkpool's back: see docs/WIRE.md.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// Where in its channel's memory a worker counts the bytes that it said, and where it says the first of them.
pub const SAID: u64 = 128;
const SAYINGS: u64 = 4096 + (256 << 10);

/// Where it notes that a call has begun.
const BEGUN: u64 = 384;

/// Bytes of that memory where there are no rings in it: what the worker notes, and no more.
const NOTES: u64 = 4096;

/// This worker's own channel.
pub struct OwnChannel {
    memory: File,
    start: u64,
    has_rings: bool,
}

impl OwnChannel {
    pub fn find() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("mappings");
        let line =
            maps.lines().find(|line| line.contains("/memfd:forkpool")).expect("the memory of its channel");
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let address = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (address(range.0), address(range.1));
        OwnChannel { memory: own_memory(), start, has_rings: end - start > NOTES }
    }

    /// Says bytes without the worker's loop, which does not know of them: it must not say more after that.
    pub fn say(&self, bytes: &[u8]) {
        if !self.has_rings {
            let sent = rustix::net::send(own_socket(), bytes, rustix::net::SendFlags::empty());
            assert_eq!(sent, Ok(bytes.len()), "there is room");
            return;
        }
        let said = self.number(SAID);
        self.write(SAYINGS + u64::from(said), bytes);
        self.scribble(SAID, said + u32::try_from(bytes.len()).expect("few bytes"));
    }

    /// Wakes the host, if that is needed, and does nothing more.
    pub fn wait_to_be_killed(&self) {
        if self.has_rings {
            rustix::net::send(own_socket(), &[0], rustix::net::SendFlags::empty())
                .expect("the host is there");
        }
        std::thread::sleep(Duration::from_secs(60));
    }

    /// Writes a number over one of the channel's.
    pub fn scribble(&self, at: u64, number: u32) {
        self.write(at, &number.to_ne_bytes());
    }

    /// Denies that a call has begun.
    pub fn deny_the_call(&self) {
        self.scribble(BEGUN, 0);
    }

    fn number(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, self.start + at).expect("it is mapped");
        u32::from_ne_bytes(bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.start + at).expect("it is mapped");
    }
}

/// This process's memory, to be read and written at its addresses.
pub fn own_memory() -> File {
    File::options().read(true).write(true).open("/proc/self/mem").expect("its own memory")
}

/// Closes the channel for good, whoever else holds it.
pub fn hang_up() {
    rustix::net::shutdown(own_socket(), rustix::net::Shutdown::Both).expect("it hangs up");
}

/// The only socket of a worker.
fn own_socket() -> OwnedFd {
    let entries = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let is_socket = |entry: &std::fs::DirEntry| {
        entry.path().read_link().is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let number =
        entries.into_iter().find(is_socket).and_then(|entry| entry.file_name().to_str()?.parse().ok());
    let this =
        rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("this process");
    let number = number.expect("a channel");
    rustix::process::pidfd_getfd(this, number, PidfdGetfdFlags::empty()).expect("its channel again")
}
