//! A peer that writes arbitrary values over every counter of the rings.

use std::sync::atomic::Ordering;

use super::{CAPACITY, HOST_WAIT_FLAG, Ring, TO_HOST, TO_WORKER, WORKER_WAIT_FLAG, WakeCondition};
use crate::channel::status_page::{CALL_BEGUN, LAST_CALL, LOG_WRITTEN};

/// Plays a script of the peer's writes and the host's steps.
///
/// # Panics
///
/// If the host reads or writes more than there can be, or loses count of what it did itself.
pub fn hostile_rings(data: &[u8]) {
    let Ok((mut host, file)) = Ring::create() else { return };
    let Ok(peer) = Ring::open(&file) else { return };
    for step in data.chunks_exact(6) {
        let number = u32::from_le_bytes([step[2], step[3], step[4], step[5]]);
        // Almost valid numbers are the dangerous ones.
        let number =
            if step[1] & 1 == 0 { number } else { host.side.written().wrapping_add(number % (2 * CAPACITY)) };
        let offsets = [
            TO_WORKER.counters.written,
            TO_WORKER.counters.read,
            TO_WORKER.processor,
            TO_HOST.counters.written,
            TO_HOST.counters.read,
            TO_HOST.processor,
            HOST_WAIT_FLAG,
            WORKER_WAIT_FLAG,
            CALL_BEGUN,
            LAST_CALL,
            LOG_WRITTEN,
        ];
        match step[0] % 18 {
            at @ 0..=10 => {
                peer.memory().atomic_u32(offsets[usize::from(at)]).store(number, Ordering::Relaxed)
            }
            11..=13 => check_read(&mut host, number as usize % (CAPACITY as usize + 2)),
            14..=16 => check_write(&mut host, number as usize % (CAPACITY as usize + 2)),
            _ => check_queries(&host),
        }
    }
}

fn check_read(host: &mut Ring, capacity: usize) {
    let (before, mut into) = (host.side.read(), Vec::with_capacity(capacity));
    let capacity = into.capacity();
    let count = host.read(&mut into).unwrap_or_default();
    assert!(count <= capacity && count <= CAPACITY as usize && count == into.len(), "no more than there is");
    assert_eq!(into.capacity(), capacity, "the buffer does not grow");
    assert_eq!(host.side.read(), before.wrapping_add(count as u32));
}

fn check_write(host: &mut Ring, count: usize) {
    let before = host.side.written();
    let written = host.write(&vec![7; count]).unwrap_or_default();
    assert!(written <= count && written <= CAPACITY as usize);
    assert_eq!(host.side.written(), before.wrapping_add(written as u32));
}

fn check_queries(host: &Ring) {
    let has_bytes = host.has_bytes();
    assert_eq!(host.arm(WakeCondition::Bytes), has_bytes.map(|has_bytes| !has_bytes));
    let _ =
        (host.arm(WakeCondition::Either), host.status_page().call_begun(), host.peer_is_on_other_processor());
    host.disarm();
    let status_page = host.status_page();
    let _ = (status_page.last_call(), status_page.running_since(), status_page.records());
    assert!(
        !host.take_wake_request(WakeCondition::Space) || !host.take_wake_request(WakeCondition::Space),
        "the request is taken at most once"
    );
}
