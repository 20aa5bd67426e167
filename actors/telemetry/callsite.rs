//! Dynamic callsites: the events and spans of a worker's program, registered with `tracing` in this process.
//!
//! Subscribers identify a callsite by a `'static` reference. So one is leaked for each callsite that a worker reports,
//! once, which is bounded for a normal program. It is not bounded if a handler names its timers after their data, or if
//! a worker invents callsites. Callsites beyond [`MAX_CALLSITES`] therefore share one for each level and kind, with
//! their name, target and values as its fields.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, OnceLock};

use parking_lot::Mutex;
use serde_json::Value as Json;
use tracing::callsite::{self, Callsite, Identifier};
use tracing::field::{self, FieldSet, ValueSet};
use tracing::metadata::Kind;
use tracing::subscriber::Interest;
use tracing::{Metadata, dispatcher};

use super::request_log_sink::{named_fields, split_message};
use crate::escape;
use crate::wire::log_record::MAX_FIELDS;
use crate::wire::log_record::{CallsiteInfo, Value, Values, level};

/// The number of callsites that are registered separately; those beyond share one for each level and kind.
const MAX_CALLSITES: usize = 4096;

const NEVER: u8 = 0;
const SOMETIMES: u8 = 1;
const ALWAYS: u8 = 2;

/// Whether it is a span's callsite, and what the worker reports about it.
type Key = (bool, CallsiteInfo);

static CALLSITES: LazyLock<Mutex<HashMap<Key, &'static DynamicCallsite>>> = LazyLock::new(Mutex::default);

/// A callsite of an event or a span that is created at run time and never freed.
pub(crate) struct DynamicCallsite {
    metadata: OnceLock<Metadata<'static>>,
    /// `NEVER`, `SOMETIMES` or `ALWAYS`, as the subscribers answered.
    interest: AtomicU8,
    /// Whether it stands for many callsites of workers, so that its fields are not theirs.
    shared: bool,
}

impl DynamicCallsite {
    /// Returns the callsite of an event, and the event's values for the fields of that callsite.
    pub(crate) fn for_event(source: CallsiteInfo, values: Values) -> (&'static DynamicCallsite, Values) {
        DynamicCallsite::get_or_create(false, source, values)
    }

    /// Returns the callsite of a span, and the span's values for the fields of that callsite.
    pub(crate) fn for_span(source: CallsiteInfo, values: Values) -> (&'static DynamicCallsite, Values) {
        DynamicCallsite::get_or_create(true, source, values)
    }

    fn get_or_create(
        is_span: bool,
        source: CallsiteInfo,
        values: Values,
    ) -> (&'static DynamicCallsite, Values) {
        let mut callsites = CALLSITES.lock();
        let key = (is_span, source);
        if let Some(callsite) = callsites.get(&key) {
            return (callsite, values);
        }
        let shared = callsites.len() >= MAX_CALLSITES;
        let (key, values) = if shared { fold_into_shared(key, values) } else { (key, values) };
        if let Some(callsite) = callsites.get(&key) {
            return (callsite, values);
        }
        let callsite = DynamicCallsite::create(&key, shared);
        callsites.insert(key, callsite);
        drop(callsites);
        // Without the lock, because registering asks the subscribers, which may log themselves.
        callsite::register(callsite);
        (callsite, values)
    }

    /// Returns whether the callsite is shared. Values that a worker records later for a span refer to the fields of
    /// the original callsite, so they fit none of the fields of a shared one.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    fn create((is_span, source): &Key, shared: bool) -> &'static DynamicCallsite {
        let leak =
            |text: &str| -> &'static str { Box::leak(escape::printable(text).into_owned().into_boxed_str()) };
        let callsite =
            DynamicCallsite { metadata: OnceLock::new(), interest: AtomicU8::new(SOMETIMES), shared };
        let callsite: &'static DynamicCallsite = Box::leak(Box::new(callsite));
        let names: Vec<&'static str> = source.fields.iter().take(MAX_FIELDS).map(|name| leak(name)).collect();
        let metadata = Metadata::new(
            leak(&source.name),
            leak(&source.target),
            level::named(source.level),
            source.file.as_deref().map(leak),
            source.line,
            Some(leak(&source.target)),
            FieldSet::new(Box::leak(names.into_boxed_slice()), Identifier(callsite)),
            if *is_span { Kind::SPAN } else { Kind::EVENT },
        );
        callsite.metadata.get_or_init(|| metadata);
        callsite
    }

    /// Returns the metadata, which [`create`](Self::create) sets before it returns the reference.
    pub(crate) fn metadata(&'static self) -> &'static Metadata<'static> {
        self.metadata
            .get()
            .unwrap_or_else(|| unreachable!("the metadata is set when the callsite is created"))
    }

    /// Returns whether this thread's subscriber wants events or spans of this callsite.
    pub(crate) fn is_enabled(&'static self) -> bool {
        match self.interest.load(Ordering::Relaxed) {
            NEVER => false,
            ALWAYS => true,
            _ => dispatcher::get_default(|current| current.enabled(self.metadata())),
        }
    }

    /// Calls `then` with the values in the form in which subscribers take them. Values without a field are left out.
    pub(crate) fn with_values<T>(&'static self, values: &Values, then: impl FnOnce(&ValueSet<'_>) -> T) -> T {
        let fields = self.metadata().fields();
        let names: Vec<field::Field> = fields.iter().collect();
        let boxed: Vec<(usize, Box<dyn field::Value + '_>)> = values
            .iter()
            .map(|(index, value)| (usize::from(*index), as_value(value)))
            .filter(|(index, _)| *index < names.len())
            .take(MAX_FIELDS)
            .collect();
        let Some(first) = names.first() else {
            return then(&fields.value_set(&[]));
        };
        // `tracing` takes only arrays of a fixed length; it skips an entry without a value.
        let mut list: [(&field::Field, Option<&dyn field::Value>); MAX_FIELDS] = [(first, None); MAX_FIELDS];
        for (entry, (index, value)) in list.iter_mut().zip(&boxed) {
            *entry = (&names[*index], Some(&**value));
        }
        then(&fields.value_set(&list))
    }
}

/// Converts an event or span of a callsite beyond the limit into one of the shared callsite of its level and kind.
fn fold_into_shared((is_span, source): Key, values: Values) -> (Key, Values) {
    let name = if is_span { "name" } else { "message" };
    let shared = CallsiteInfo {
        level: level::number(level::named(source.level)),
        name: "worker".to_owned(),
        target: "forkpool::worker".to_owned(),
        file: None,
        line: None,
        fields: [name, "target", "fields"].map(str::to_owned).to_vec(),
    };
    let (text, fields) = if is_span {
        (source.name.clone(), named_fields(&source, values))
    } else {
        split_message(&source, values)
    };
    let values = [(0, text), (1, source.target), (2, Json::Object(fields).to_string())];
    ((is_span, shared), values.map(|(index, text)| (index, Value::Shown(text))).to_vec())
}

impl Callsite for DynamicCallsite {
    fn set_interest(&self, interest: Interest) {
        let interest = match interest {
            interest if interest.is_never() => NEVER,
            interest if interest.is_always() => ALWAYS,
            _ => SOMETIMES,
        };
        self.interest.store(interest, Ordering::Relaxed);
    }

    fn metadata(&self) -> &Metadata<'_> {
        self.metadata
            .get()
            .unwrap_or_else(|| unreachable!("the metadata is set when the callsite is created"))
    }
}

fn as_value(value: &Value) -> Box<dyn field::Value + '_> {
    match value {
        Value::Bool(value) => Box::new(*value),
        Value::Signed(value) => Box::new(*value),
        Value::Unsigned(value) => Box::new(*value),
        Value::Float(bits) => Box::new(f64::from_bits(*bits)),
        Value::Text(text) => Box::new(text.as_str()),
        Value::Shown(text) | Value::Json(text) => Box::new(field::display(escape::printable(text))),
    }
}
