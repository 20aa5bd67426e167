//! How long a server waits for its last workers, and for clients at ports that are silent.

use std::time::Duration;

use super::control_channel::Disconnect;
use super::event_loop::ForkServer;
use crate::clock::Instant;
use crate::telling::log_event;

impl ForkServer<'_> {
    /// Returns what is left until the workers of a server that takes no more work are killed.
    pub(super) fn remaining_drain(&self, now: Instant) -> Option<Duration> {
        let (until, limit) = (self.draining.flatten()?, self.options.drain_timeout?);
        let frozen = until.checked_sub(limit).map_or(Duration::ZERO, |began| self.frozen.since(began));
        Some(until.checked_add(frozen).unwrap_or(until).saturating_duration_since(now))
    }

    /// Removes remote clients that have been silent for too long, and kills their workers.
    pub(super) fn remove_dead_clients(&mut self) -> Result<(), Disconnect> {
        let dead_after = self.options.client_dead_after;
        for client in self.clients.dead(Instant::now()) {
            log_event!(warn, client, ?dead_after, "a client has been silent for too long");
            self.remove_client(client, Disconnect::Closed)?;
        }
        Ok(())
    }
}
