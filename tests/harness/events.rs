//! What a program's `tracing` subscriber gets to see.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// One event, its fields as text.
#[derive(Clone, Debug)]
pub struct Seen {
    pub target: String,
    pub level: Level,
    pub fields: BTreeMap<String, String>,
    /// The fields of the span that it is in.
    pub span: BTreeMap<String, String>,
}

impl Seen {
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub fn message(&self) -> &str {
        self.field("message")
    }
}

static SEEN: OnceLock<Mutex<Vec<Seen>>> = OnceLock::new();

fn seen() -> MutexGuard<'static, Vec<Seen>> {
    let seen = SEEN.get_or_init(|| {
        let subscriber = tracing_subscriber::registry().with(Keeper);
        tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
        Mutex::default()
    });
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on events are kept, and none that came before.
pub fn keep_events() {
    seen().clear();
}

/// The events of a target since then, in order.
pub fn events(target: &str) -> Vec<Seen> {
    seen().iter().filter(|event| event.target == target).cloned().collect()
}

struct Keeper;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keeper {
    // What the frameworks say of each piece of a body would be kept for all later tests, some of which measure memory.
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_span() || metadata.target().starts_with("forkpool")
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        ctx.span(id).expect("a new span").extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let span = ctx.event_span(event).and_then(|span| Some(span.extensions().get::<Fields>()?.0.clone()));
        let event = Seen {
            target: metadata.target().to_owned(),
            level: *metadata.level(),
            fields: fields.0,
            span: span.unwrap_or_default(),
        };
        // An event that is caused while the subscriber is being made is of no interest.
        if let Some(seen) = SEEN.get() {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
