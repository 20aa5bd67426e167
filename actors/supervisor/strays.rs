//! Children of a dead server whose pids are unknown: workers that it forked and did not confirm, and the child that it had
//! parked. An application that adopts orphans has to reap them.

use std::time::Duration;

use actix::Context;

use super::Supervisor;
use crate::actors::threads::real_time::run_after;
use crate::server::PARKED;
use crate::sys::adopted::{Strays, adopts_orphans};

/// Time between two looks (20 ms).
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often none must be found until the search ends (1 s in all). A process is adopted a moment after its server is
/// lost.
const LOOKS: u32 = 50;

/// How often they are looked for at most (30 s in all), if some do not end: each finds its channel closed after its
/// set-up.
const MAX_LOOKS: u32 = 1500;

impl Supervisor {
    /// Looks for the workers with these numbers, and for a parked child, that this pool's own server, which had this pid,
    /// has left behind.
    pub(super) fn reap_strays(&mut self, numbers: &[u64], server: Option<u32>, ctx: &mut Context<Self>) {
        let options = &self.scheduler.options;
        let parked = options.park_worker.then(|| PARKED.to_owned());
        let tails: Vec<String> = numbers.iter().map(u64::to_string).chain(parked).collect();
        if let Some(server) = server.filter(|_| !tails.is_empty() && adopts_orphans()) {
            let strays = Strays::new(&options.name, &tails, server);
            self.searches += 1;
            self.look_for(strays, LOOKS, MAX_LOOKS, ctx);
        }
    }

    fn look_for(&mut self, strays: Strays, looks: u32, most: u32, ctx: &mut Context<Self>) {
        let looks = if strays.reap() { looks } else { looks - 1 };
        if looks > 0 && most > 0 {
            run_after(ctx, LOOK_EVERY, move |supervisor, ctx| {
                supervisor.look_for(strays, looks, most - 1, ctx);
            });
        } else {
            self.searches -= 1;
            self.stop_if_drained(ctx);
        }
    }
}
