//! A peer that writes what it likes over every number of the rings.

use std::sync::atomic::Ordering;

use super::{CAPACITY, HOST_WAITS, Need, Ring, TO_HOST, TO_WORKER, WORKER_WAITS};
use crate::channel::status_page::{BEGUN, CALL, LOGGED};

/// Plays a script of the peer's writes and of this side's steps, and panics where the host gets or writes more than
/// there can be, or loses count of what it did itself.
pub fn hostile_rings(data: &[u8]) {
    let Ok((mut host, file)) = Ring::create(0) else { return };
    let Ok(peer) = Ring::open(&file) else { return };
    for step in data.chunks_exact(6) {
        let number = u32::from_le_bytes([step[2], step[3], step[4], step[5]]);
        // Numbers that almost fit are the dangerous ones.
        let number =
            if step[1] & 1 == 0 { number } else { host.written.wrapping_add(number % (2 * CAPACITY)) };
        let places = [
            TO_WORKER.written,
            TO_WORKER.read,
            TO_WORKER.processor,
            TO_HOST.written,
            TO_HOST.read,
            TO_HOST.processor,
            HOST_WAITS,
            WORKER_WAITS,
            BEGUN,
            CALL,
            LOGGED,
        ];
        match step[0] % 18 {
            at @ 0..=10 => peer.memory.number(places[usize::from(at)]).store(number, Ordering::Relaxed),
            11..=13 => reads(&mut host, number as usize % (CAPACITY as usize + 2)),
            14..=16 => writes(&mut host, number as usize % (CAPACITY as usize + 2)),
            _ => looks(&host),
        }
    }
}

fn reads(host: &mut Ring, room: usize) {
    let (before, mut into) = (host.read, Vec::with_capacity(room));
    let room = into.capacity();
    let count = host.read(&mut into).unwrap_or_default();
    assert!(count <= room && count <= CAPACITY as usize && count == into.len(), "no more than there is");
    assert_eq!(into.capacity(), room, "the buffer does not grow");
    assert_eq!(host.read, before.wrapping_add(count as u32));
}

fn writes(host: &mut Ring, count: usize) {
    let before = host.written;
    let written = host.write(&vec![7; count]).unwrap_or_default();
    assert!(written <= count && written <= CAPACITY as usize);
    assert_eq!(host.written, before.wrapping_add(written as u32));
}

fn looks(host: &Ring) {
    let has_bytes = host.has_bytes();
    assert_eq!(host.arm(Need::Bytes), has_bytes.map(|has_bytes| !has_bytes));
    let _ = (host.arm(Need::Either), host.status_page().begun(), host.peer_is_elsewhere());
    host.disarm();
    let status_page = host.status_page();
    let _ = (status_page.last_call(), status_page.running_since(), status_page.records());
    assert!(!host.must_wake(Need::Room) || !host.must_wake(Need::Room), "told at most once");
}
