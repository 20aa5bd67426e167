//! Locals that travel: encoded when they are set, merged with what the frames further out send along.

use std::sync::Arc;

use serde::Serialize;

use crate::wire::baggage;
use crate::wire::baggage::{Item, MOST_BAGGAGE};
use crate::wire::frame;
use crate::wire::frame::PayloadError;

/// Why a value cannot be baggage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BaggageError {
    /// All the baggage of the context together is too large.
    #[error("with {type_name} the baggage exceeds {limit} bytes")]
    TooLarge {
        /// The type of the value that was one too many.
        type_name: &'static str,
        /// Most bytes that all of it may take, encoded.
        limit: usize,
    },
    /// Its `Serialize` did not succeed.
    #[error("{type_name} cannot be encoded: {reason}")]
    Encode {
        /// The value's type.
        type_name: &'static str,
        /// What its encoding said.
        reason: String,
    },
}

/// The baggage of one frame.
#[derive(Clone, Default)]
pub(super) struct Baggage {
    /// Set in the frame itself.
    own: Vec<Item>,
    /// With that of the frames further out; `None` if there is none at all.
    all: Option<Arc<Packed>>,
}

struct Packed {
    items: Vec<Item>,
    list: Vec<u8>,
}

impl Packed {
    fn of(items: Vec<Item>) -> Result<Arc<Self>, PayloadError> {
        let list = baggage::pack(&items)?;
        Ok(Arc::new(Packed { items, list }))
    }
}

impl Baggage {
    /// What a frame begins with that chains to this one.
    pub(super) fn passed_on(&self) -> Self {
        Baggage { own: Vec::new(), all: self.all.clone() }
    }

    pub(super) fn add<T: Serialize>(&mut self, value: &T) -> Result<(), BaggageError> {
        let type_name = std::any::type_name::<T>();
        let refusal = |error| match error {
            PayloadError::Encode { reason, .. } => BaggageError::Encode { type_name, reason },
            _ => BaggageError::TooLarge { type_name, limit: MOST_BAGGAGE },
        };
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, value, MOST_BAGGAGE).map_err(refusal)?;
        let item = Item { key: baggage::key::<T>(), bytes };
        let mut items = self.all.as_ref().map(|all| all.items.clone()).unwrap_or_default();
        put(&mut items, item.clone());
        self.all = Some(Packed::of(items).map_err(refusal)?);
        put(&mut self.own, item);
        Ok(())
    }

    /// Leaves what was set in the frame itself.
    pub(super) fn detach(&mut self) {
        // A part of what could be packed can be packed.
        self.all = Packed::of(self.own.clone()).ok().filter(|all| !all.items.is_empty());
    }

    /// As it travels; empty if there is none.
    pub(super) fn list(&self) -> &[u8] {
        self.all.as_ref().map_or(&[], |all| &all.list)
    }
}

/// Adds an item, in place of one with the same key.
fn put(items: &mut Vec<Item>, item: Item) {
    match items.iter_mut().find(|known| known.key == item.key) {
        Some(known) => *known = item,
        None => items.push(item),
    }
}
