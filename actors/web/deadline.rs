//! When the time of a request is over.

use std::time::Duration;

use actix_web::{Error, HttpMessage, HttpRequest};

use super::Config;
use crate::clock::Instant;

/// The end of a request's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    /// The time that the request was given.
    pub(super) limit: Duration,
}

/// The deadline of a request, if it has one. It is kept in the request's extensions.
#[derive(Clone, Copy)]
struct Fixed(Option<Deadline>);

impl Deadline {
    /// Returns the deadline of a request. The first extractor that asks fixes it.
    ///
    /// # Errors
    ///
    /// The response to a request whose header says no time.
    pub(super) fn of(request: &HttpRequest) -> Result<Option<Self>, Error> {
        let known = request.extensions().get().copied();
        if let Some(Fixed(deadline)) = known {
            return Ok(deadline);
        }
        let now = Instant::now();
        let at = Config::of(request).map(|config| config.deadline(request, now)).transpose()?.flatten();
        let deadline = at.map(|at| Deadline { at, limit: at - now });
        request.extensions_mut().insert(Fixed(deadline));
        Ok(deadline)
    }
}
