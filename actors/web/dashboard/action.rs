//! What viewers do to pools.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use tracing::Span;

use super::origin;
use super::page::text;
use super::pools::{ShownPool, View};
use crate::actors::api::recycling::Recycle;
use crate::actors::telemetry::teller;
use crate::config::MAX_NAME;
use crate::escape;
use crate::user_code::caught;
use crate::wire::frame;

/// The header of a request that a script has made, and no form.
const HEADER: &str = "x-forkpool";

/// What a viewer does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    Drain,
    Kill,
    Recycle,
    Pause,
    Resume,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Drain => "drain",
            Verb::Kill => "kill",
            Verb::Recycle => "recycle",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
        }
    }
}

/// What is acted on, as the path says it.
#[derive(Deserialize)]
pub(super) struct Target {
    pool: String,
    number: Option<String>,
}

/// What an action came to: a status, and a line that says it.
type Outcome = (StatusCode, &'static str);

/// Does what a request asks for, if it may, and answers with a line.
pub(super) fn act(view: &View, verb: Verb, request: &HttpRequest, target: &Target) -> HttpResponse {
    let outcome = match check(request) {
        Ok(()) => perform(view, verb, target),
        Err(refusal) => refusal,
    };
    answer(verb, request, target, outcome)
}

/// Answers a request that the guard does not let through.
pub(super) fn refuse_by_guard(verb: Verb, request: &HttpRequest, target: &Target) -> HttpResponse {
    answer(verb, request, target, (StatusCode::FORBIDDEN, "the guard of the dashboard refuses this request"))
}

pub(super) fn not_a_post() -> HttpResponse {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "an action is a POST");
    response.headers_mut().insert(ALLOW, actix_web::http::header::HeaderValue::from_static("POST"));
    response
}

/// # Errors
///
/// The refusal of a request that the page itself would not have made.
fn check(request: &HttpRequest) -> Result<(), Outcome> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "an action needs the content type application/json",
        ));
    }
    if !request.headers().contains_key(HEADER) {
        return Err((StatusCode::FORBIDDEN, "an action needs the header x-forkpool"));
    }
    origin::check(request).map_err(|refusal| (StatusCode::FORBIDDEN, refusal))
}

fn perform(view: &View, verb: Verb, target: &Target) -> Outcome {
    let Some(pool) = view.pool(&target.pool) else {
        return (StatusCode::NOT_FOUND, "the dashboard shows no such pool");
    };
    let outcome = match verb {
        Verb::Drain | Verb::Kill => {
            let number = target.number.as_ref().and_then(|number| number.parse().ok());
            number.map_or((StatusCode::NOT_FOUND, NO_WORKER), |number| act_on_worker(pool, verb, number))
        }
        Verb::Recycle => match pool.scheduler.recycle(Recycle::All).0 {
            0 => (StatusCode::CONFLICT, "there is no worker to replace, or the pool has stopped"),
            _ => (StatusCode::OK, "all workers are being replaced"),
        },
        Verb::Pause if pool.scheduler.pause() => (StatusCode::OK, "the pool is paused"),
        Verb::Pause => (StatusCode::CONFLICT, "the pool was paused before, or has stopped"),
        Verb::Resume if pool.scheduler.resume() => (StatusCode::OK, "the pool is resumed"),
        Verb::Resume => (StatusCode::CONFLICT, "the pool was not paused"),
    };
    pool.scheduler.forget_recent_snapshot();
    outcome
}

const NO_WORKER: &str = "there is no such worker any more";

fn act_on_worker(pool: &ShownPool, verb: Verb, number: u64) -> Outcome {
    let (is_done, line) = match verb {
        Verb::Kill => (pool.scheduler.kill_worker(number), "the worker is killed"),
        _ => {
            let count = pool.scheduler.recycle(Recycle::Worker(number)).0;
            (count > 0, "the worker is replaced once it has finished")
        }
    };
    if is_done { (StatusCode::OK, line) } else { (StatusCode::NOT_FOUND, NO_WORKER) }
}

/// Answers a request, and logs what it came to.
fn answer(verb: Verb, request: &HttpRequest, target: &Target, (status, line): Outcome) -> HttpResponse {
    let (action, code) = (verb.name(), status.as_u16());
    let (pool, worker) = (logged(&target.pool), target.number.as_deref().map(logged));
    let peer = request.peer_addr().map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
    let span = caught(Span::current).unwrap_or_else(Span::none);
    teller::tell(move || {
        let worker = worker.as_deref();
        if status.is_success() {
            tracing::info!(target: "forkpool::web", parent: &span, %pool, worker, action, %peer, status = code,
                "a viewer of the dashboard acted: {line}");
        } else {
            tracing::warn!(target: "forkpool::web", parent: &span, %pool, worker, action, %peer, status = code,
                "an action of the dashboard was refused: {line}");
        }
    });
    text(status, line)
}

/// Returns what is logged of a part of the path, which may be any text.
fn logged(part: &str) -> String {
    escape::one_line(frame::beginning(part, MAX_NAME)).to_string()
}
