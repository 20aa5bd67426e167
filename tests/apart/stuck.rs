//! Servers that are stopped when their pools end.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::*;
use crate::*;

tests! {
    a_stop_says_what_is_left_although_nothing_can_reap_it,
}

/// P12: the server alone may reap the worker, and does not move.
fn a_stop_says_what_is_left_although_nothing_can_reap_it() {
    run(async {
        let place = Place::new();
        let mut server = serving("");
        let pool = place.start();
        let worker = served_by(&pool).await;
        signal(server.pid(), Signal::STOP);
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        let left: Vec<_> = report.left.iter().map(|left| (left.pid, left.state.as_str())).collect();
        assert_eq!(left, [(Some(worker), "ended and not reaped")], "{report}");
        signal(server.pid(), Signal::CONT);
        gone(worker).await;
        signal(server.pid(), Signal::TERM);
        assert!(server.ends().success());
    });
}
