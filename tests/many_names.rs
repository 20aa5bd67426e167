//! More places that log than are told apart; alone, since they are told apart for the life of a program.
mod harness;

use std::sync::{Mutex, PoisonError};

use harness::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Of each span that was opened, its own name and the one among its fields.
static OPENED: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

struct Keeper;

#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "name" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Keeper {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut name = Name::default();
        attributes.record(&mut name);
        let opened = (attributes.metadata().name(), name.0);
        OPENED.lock().unwrap_or_else(PoisonError::into_inner).push(opened);
    }
}

/// L9
#[test]
fn names_without_end_share_a_place_and_lose_nothing() {
    run(async {
        let subscriber = tracing_subscriber::registry().with(Keeper);
        tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
        // A timer takes the room of two records.
        answer(scribes().send(Write::Names(5_000))).await.expect("it is written");
        let opened = std::mem::take(&mut *OPENED.lock().unwrap_or_else(PoisonError::into_inner));
        let said = |number: usize, (name, field): &(&str, String)| {
            let expected = format!("timer {number}");
            *name == expected || (*name, field) == ("worker", &expected)
        };
        assert_eq!(opened.len(), 5_000);
        assert!(opened.iter().enumerate().all(|(number, opened)| said(number, opened)));
        assert_eq!(opened.last().map(|(name, _)| *name), Some("worker"));
    });
}
