//! How a worker of these tests reaches its own channel behind forkpool's back: see docs/WIRE.md.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use forkpool::Transport;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::transport;

/// Where in its channel's memory a worker counts the bytes that it said, and where it says the first of them.
pub const SAID: u64 = 128;
const SAYINGS: u64 = 4096 + CAPACITY;

/// Where the host counts the bytes that it has heard.
const HEARD: u64 = 192;

/// Bytes of one ring.
const CAPACITY: u64 = 256 << 10;

/// Where it notes that a call has begun.
const BEGUN: u64 = 384;

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
            maps.lines().find(|line| line.contains("/memfd:forkpool ")).expect("the memory of its channel");
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let address = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let has_rings = numbers_of("socket:").is_empty();
        OwnChannel { memory: own_memory(), start: address(range.0), has_rings }
    }

    /// Says bytes without the worker's loop, which does not know of them: it must not say more after that.
    pub fn say(&self, bytes: &[u8]) {
        if !self.has_rings {
            let socket = &own("socket:")[0];
            let mut rest = bytes;
            while !rest.is_empty() {
                // A host that has hung up reads no more.
                let Ok(count) = rustix::net::send(socket, rest, rustix::net::SendFlags::NOSIGNAL) else {
                    return;
                };
                rest = &rest[count..];
            }
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let said = self.number(SAID);
            let unheard = u64::from(said.wrapping_sub(self.number(HEARD)));
            let at = u64::from(said) % CAPACITY;
            let room = (CAPACITY - unheard).min(CAPACITY - at);
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).expect("a few")));
            self.write(SAYINGS + at, now);
            self.scribble(SAID, said.wrapping_add(u32::try_from(now.len()).expect("few bytes")));
            rest = later;
            if !rest.is_empty() && !self.ring() {
                return;
            }
        }
    }

    /// Wakes the host, if that is needed; returns whether it is there.
    fn ring(&self) -> bool {
        // One of the two can be written to.
        own("pipe:").into_iter().any(|bell| rustix::io::write(bell, &[0]).is_ok())
    }

    /// Wakes the host, if that is needed, and does nothing more.
    pub fn wait_to_be_killed(&self) {
        if self.has_rings {
            assert!(self.ring(), "the host is there");
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
    for socket in own("socket:") {
        rustix::net::shutdown(socket, rustix::net::Shutdown::Both).expect("it hangs up");
    }
    for bell in numbers_of("pipe:") {
        nix::unistd::close(bell).expect("it is open");
    }
}

/// Lowest number of what a worker's channel is made of.
const CHANNEL_FLOOR: i32 = 60;

/// The descriptors of this kind that a worker's channel is made of.
fn own(kind: &str) -> Vec<OwnedFd> {
    let this =
        rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("this process");
    let numbers = numbers_of(kind).into_iter();
    let again = |number| rustix::process::pidfd_getfd(&this, number, PidfdGetfdFlags::empty());
    numbers.map(|number| again(number).expect("its channel again")).collect()
}

/// Descriptors that a worker's channel consists of: a socket, or two bells.
pub fn channel_parts() -> usize {
    if transport() == Transport::SharedMemory { 2 } else { 1 }
}

/// Descriptors that are left of a worker's channel.
pub fn own_channel_of(worker: u32) -> usize {
    super::descriptors_of(worker).range(CHANNEL_FLOOR..).count()
}

fn numbers_of(kind: &str) -> Vec<i32> {
    let open = super::descriptors_of(std::process::id());
    open.range(CHANNEL_FLOOR..)
        .filter(|(_, target)| target.starts_with(kind))
        .map(|(number, _)| *number)
        .collect()
}
