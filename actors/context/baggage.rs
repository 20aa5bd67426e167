//! Baggage: locals that travel with calls. A value is encoded when it is set and merged with the baggage of the outer
//! frames at that time.

use std::sync::Arc;

use serde::Serialize;

use crate::wire::baggage;
use crate::wire::baggage::{BaggageItem, MAX_BAGGAGE};
use crate::wire::frame;
use crate::wire::frame::PayloadError;

/// Why [`ErrorContext::baggage`](crate::actors::ErrorContext::baggage) rejected a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BaggageError {
    /// With this value, the encoded baggage of the context and its outer frames would exceed the limit.
    #[error("with {type_name} the baggage exceeds {limit} bytes")]
    TooLarge {
        /// The type of the rejected value.
        type_name: &'static str,
        /// The largest encoded size of all baggage of a context together, in bytes (64 KiB).
        limit: usize,
    },
    /// The `Serialize` implementation of the value returned an error.
    #[error("{type_name} cannot be encoded: {reason}")]
    Encode {
        /// The type of the rejected value.
        type_name: &'static str,
        /// The text of the serialization error.
        reason: String,
    },
}

/// The baggage of one frame.
#[derive(Clone, Default)]
pub(super) struct Baggage {
    /// Items that were set in the frame itself.
    own: Vec<BaggageItem>,
    /// All items, those of the outer frames included; `None` without any.
    all: Option<Arc<EncodedBaggage>>,
}

/// Items, and the bytes that travel with a call.
struct EncodedBaggage {
    items: Vec<BaggageItem>,
    bytes: Vec<u8>,
}

impl EncodedBaggage {
    fn new(items: Vec<BaggageItem>) -> Result<Arc<Self>, PayloadError> {
        let bytes = baggage::encode_list(&items)?;
        Ok(Arc::new(EncodedBaggage { items, bytes }))
    }
}

impl Baggage {
    /// Returns the baggage with which a new frame directly inside this one starts.
    pub(super) fn inherited(&self) -> Self {
        Baggage { own: Vec::new(), all: self.all.clone() }
    }

    /// Encodes a value and adds it to the frame, in place of a value of the same type.
    ///
    /// # Errors
    ///
    /// See [`BaggageError`]; the baggage is unchanged then.
    pub(super) fn add<T: Serialize>(&mut self, value: &T) -> Result<(), BaggageError> {
        let type_name = std::any::type_name::<T>();
        let to_error = |error| match error {
            PayloadError::Encode { reason, .. } => BaggageError::Encode { type_name, reason },
            PayloadError::TooDeep { limit, .. } => {
                BaggageError::Encode { type_name, reason: format!("it is nested deeper than {limit} levels") }
            }
            PayloadError::TooManyElements { limit, .. } => {
                let reason = format!("more than {limit} of its elements have no bytes");
                BaggageError::Encode { type_name, reason }
            }
            _ => BaggageError::TooLarge { type_name, limit: MAX_BAGGAGE },
        };
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, value, baggage::LIMITS).map_err(to_error)?;
        let item = BaggageItem { key: baggage::key::<T>(), bytes };
        let mut items = self.all.as_ref().map(|all| all.items.clone()).unwrap_or_default();
        put(&mut items, item.clone());
        self.all = Some(EncodedBaggage::new(items).map_err(to_error)?);
        put(&mut self.own, item);
        Ok(())
    }

    /// Drops the baggage of the outer frames and keeps that of the frame itself.
    pub(super) fn detach(&mut self) {
        // This cannot fail: all items together were packed within the limit, so a subset of them is as well.
        self.all = EncodedBaggage::new(self.own.clone()).ok().filter(|all| !all.items.is_empty());
    }

    /// Returns the bytes that travel with a call; empty without baggage.
    pub(super) fn encoded(&self) -> &[u8] {
        self.all.as_ref().map_or(&[], |all| &all.bytes)
    }
}

/// Adds an item, or replaces the item with the same key.
fn put(items: &mut Vec<BaggageItem>, item: BaggageItem) {
    match items.iter_mut().find(|known| known.key == item.key) {
        Some(known) => *known = item,
        None => items.push(item),
    }
}
