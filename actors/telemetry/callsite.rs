//! The places in a worker's program that log, made known to `tracing` in this process.
//!
//! A place is known to subscribers by a reference that lives for ever. Each is made once, when it is first heard of: a
//! program has so many of them. Where more come than [`MOST_SITES`], from a handler that names its timers after what they
//! time or from a worker that makes places up, the rest share one place, with what they say in its fields.

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

use super::request_log_sink::{message, named};
use crate::wire::log_record::MOST_FIELDS;
use crate::wire::log_record::{CallsiteInfo, Value, Values, level};

/// Most places that are told apart.
const MOST_SITES: usize = 4096;

const NEVER: u8 = 0;
const SOMETIMES: u8 = 1;
const ALWAYS: u8 = 2;

type Key = (bool, CallsiteInfo);

static SITES: LazyLock<Mutex<HashMap<Key, &'static DynamicCallsite>>> = LazyLock::new(Mutex::default);

/// One place that logs.
pub(crate) struct DynamicCallsite {
    metadata: OnceLock<Metadata<'static>>,
    interest: AtomicU8,
    /// Whether it stands for many, so that its fields are not those of what is said there.
    shared: bool,
}

impl DynamicCallsite {
    /// The site of an event, and its values there.
    pub(crate) fn of_event(source: CallsiteInfo, values: Values) -> (&'static DynamicCallsite, Values) {
        DynamicCallsite::of(false, source, values)
    }

    /// The site of a span, and its values there.
    pub(crate) fn of_span(source: CallsiteInfo, values: Values) -> (&'static DynamicCallsite, Values) {
        DynamicCallsite::of(true, source, values)
    }

    fn of(is_span: bool, source: CallsiteInfo, values: Values) -> (&'static DynamicCallsite, Values) {
        let mut sites = SITES.lock();
        let key = (is_span, source);
        if let Some(site) = sites.get(&key) {
            return (site, values);
        }
        let shared = sites.len() >= MOST_SITES;
        let (key, values) = if shared { share(key, values) } else { (key, values) };
        if let Some(site) = sites.get(&key) {
            return (site, values);
        }
        let site = DynamicCallsite::make(&key, shared);
        sites.insert(key, site);
        drop(sites);
        // Which asks subscribers, who may log.
        callsite::register(site);
        (site, values)
    }

    /// Whether values that come later, by the places of what was said there first, have no place.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    fn make((is_span, source): &Key, shared: bool) -> &'static DynamicCallsite {
        let forever = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
        let site = DynamicCallsite { metadata: OnceLock::new(), interest: AtomicU8::new(SOMETIMES), shared };
        let site: &'static DynamicCallsite = Box::leak(Box::new(site));
        let names: Vec<&'static str> =
            source.fields.iter().take(MOST_FIELDS).map(|name| forever(name)).collect();
        let metadata = Metadata::new(
            forever(&source.name),
            forever(&source.target),
            level::named(source.level),
            source.file.as_deref().map(forever),
            source.line,
            Some(forever(&source.target)),
            FieldSet::new(Box::leak(names.into_boxed_slice()), Identifier(site)),
            if *is_span { Kind::SPAN } else { Kind::EVENT },
        );
        site.metadata.get_or_init(|| metadata);
        site
    }

    pub(crate) fn metadata(&'static self) -> &'static Metadata<'static> {
        // Set before anybody has the reference.
        self.metadata.get().unwrap_or_else(|| unreachable!("a site has its metadata from the beginning"))
    }

    pub(crate) fn is_enabled(&'static self) -> bool {
        match self.interest.load(Ordering::Relaxed) {
            NEVER => false,
            ALWAYS => true,
            _ => dispatcher::get_default(|current| current.enabled(self.metadata())),
        }
    }

    /// Lends the values in the form in which subscribers take them. Those of no field are left out.
    pub(crate) fn with_values<T>(&'static self, values: &Values, then: impl FnOnce(&ValueSet<'_>) -> T) -> T {
        let fields = self.metadata().fields();
        let names: Vec<field::Field> = fields.iter().collect();
        let boxed: Vec<(usize, Box<dyn field::Value + '_>)> = values
            .iter()
            .map(|(place, value)| (usize::from(*place), as_value(value)))
            .filter(|(place, _)| *place < names.len())
            .take(MOST_FIELDS)
            .collect();
        let Some(some) = names.first() else {
            return then(&fields.value_set(&[]));
        };
        // `tracing` takes arrays of a known length alone; a place without a value is skipped.
        let mut list: [(&field::Field, Option<&dyn field::Value>); MOST_FIELDS] = [(some, None); MOST_FIELDS];
        for (slot, (place, value)) in list.iter_mut().zip(&boxed) {
            *slot = (&names[*place], Some(&**value));
        }
        then(&fields.value_set(&list))
    }
}

/// What is said at a place that there is no room for, as it is said at the one that all such places of its level share.
fn share((is_span, source): Key, values: Values) -> (Key, Values) {
    let name = if is_span { "name" } else { "message" };
    let shared = CallsiteInfo {
        level: level::number(level::named(source.level)),
        name: "worker".to_owned(),
        target: "forkpool::worker".to_owned(),
        file: None,
        line: None,
        fields: [name, "target", "fields"].map(str::to_owned).to_vec(),
    };
    let (said, fields) =
        if is_span { (source.name.clone(), named(&source, values)) } else { message(&source, values) };
    let values = [(0, said), (1, source.target), (2, Json::Object(fields).to_string())];
    ((is_span, shared), values.map(|(place, text)| (place, Value::Shown(text))).to_vec())
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
        self.metadata.get().unwrap_or_else(|| unreachable!("a site has its metadata from the beginning"))
    }
}

fn as_value(value: &Value) -> Box<dyn field::Value + '_> {
    match value {
        Value::Bool(value) => Box::new(*value),
        Value::Signed(value) => Box::new(*value),
        Value::Unsigned(value) => Box::new(*value),
        Value::Float(bits) => Box::new(f64::from_bits(*bits)),
        Value::Text(text) => Box::new(text.as_str()),
        Value::Shown(text) | Value::Json(text) => Box::new(field::display(text)),
    }
}
