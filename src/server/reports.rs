//! What a server reports of its workers and of itself.

use super::children::{ClientId, Exit};
use super::event_loop::ForkServer;
use crate::telling::log_event;
use crate::wire::LIBRARY;
use crate::wire::control::{Ended, FromServer, ServerReport};

/// Most children that are reaped in one turn of the loop. Orphans of workers are among them, which a worker may fork
/// without end.
const MAX_REAPED: usize = 256;

impl ForkServer<'_> {
    /// Reaps children, as many as one turn of the loop has time for, and reports their exits.
    pub(super) fn report_exits(&mut self) {
        let mut most = MAX_REAPED;
        while let Some(exit) = self.children.next_ended(&mut most) {
            self.report_exit(exit);
        }
        self.has_more_exits = most == 0;
    }

    /// Reports one exit to the worker's client.
    pub(super) fn report_exit(&mut self, (id, printed, ended): Exit) {
        let Some(client) = self.clients.get(id) else { return };
        printed.iter().for_each(|printed| client.control.queue(printed));
        if !self.is_private {
            log_exit(&client.hello.pool, id, &ended);
        }
        client.control.queue(&FromServer::Ended(ended));
    }

    /// Returns what this server is doing.
    pub(super) fn stats(&self) -> ServerReport {
        ServerReport {
            pid: std::process::id(),
            library: LIBRARY.to_owned(),
            uptime: self.started.elapsed(),
            clients: self.clients.count() as u64,
            workers: self.children.count() as u64,
            forked: self.forked,
            not_forked: self.not_forked,
            turned_away: self.rejections.count(),
            draining: self.is_draining(),
            parked: self.parked(),
        }
    }
}

fn log_exit(pool: &str, client: ClientId, ended: &Ended) {
    let Ended { number, ending, peak_memory, cpu_time, .. } = ended;
    log_event!(info, client, pool, worker = number, %ending, peak_memory, ?cpu_time,
        "a worker has ended");
}
