//! What a scrape returns, as this test reads it.

use std::collections::{BTreeMap, BTreeSet};

use forkpool::Metrics;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// A series: its name, and its labels as they are written.
type Series = (String, BTreeMap<String, String>);

/// One scrape.
#[derive(Clone, Debug)]
pub struct Scrape {
    pub text: String,
    samples: Vec<(Series, f64)>,
}

/// A family, as its comments describe it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// With `_total`, if it is a counter.
    pub name: String,
    pub kind: String,
    pub help: String,
}

impl Scrape {
    /// Scrapes as a server does: from a registry.
    pub fn of(metrics: &Metrics) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics.clone()));
        let mut scrape = String::new();
        text::encode(&mut scrape, &registry).expect("a text");
        let samples = scrape.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        Scrape { text: scrape, samples }
    }

    /// Returns the sum of all series with this name and these labels, or `None` without such a series.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has_all = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| found.get(*label).is_some_and(|found| found == value))
        };
        let samples = self.samples.iter().filter(|((other, found), _)| other == name && has_all(found));
        samples.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    pub fn pools(&self) -> BTreeSet<(String, Option<String>)> {
        let labels = self.samples.iter().map(|((_, labels), _)| labels);
        labels
            .filter_map(|labels| Some((labels.get("pool")?.clone(), labels.get("namesake").cloned())))
            .collect()
    }

    /// Returns the names of all labels in series of this family, but for `le`.
    pub fn labels_of(&self, family: &str) -> BTreeSet<String> {
        let of_family = |name: &str| {
            let suffix = name.strip_prefix(family);
            suffix.is_some_and(|suffix| ["", "_sum", "_count", "_bucket"].contains(&suffix))
        };
        let series = self.samples.iter().map(|(series, _)| series).filter(|(name, _)| of_family(name));
        let labels = series.flat_map(|(_, labels)| labels.keys());
        labels.filter(|label| *label != "le").cloned().collect()
    }

    /// Returns every value that a label has somewhere.
    pub fn values_of(&self, label: &str) -> BTreeSet<String> {
        self.samples.iter().filter_map(|((_, labels), _)| labels.get(label).cloned()).collect()
    }

    /// Returns the families in their order.
    pub fn families(&self) -> Vec<Described> {
        let comments = |mark: &str| -> BTreeMap<String, String> {
            let lines = self.text.lines().filter_map(|line| line.strip_prefix(mark)?.split_once(' '));
            lines.map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
        };
        let helps = comments("# HELP ");
        let described = comments("# TYPE ").into_iter().map(|(name, kind)| {
            let help = helps.get(&name).cloned().unwrap_or_default();
            let name = if kind == "counter" { format!("{name}_total") } else { name };
            Described { name, kind, help }
        });
        described.collect()
    }

    /// Returns the series that may never fall and are smaller here than in an earlier scrape, or gone.
    pub fn fallen_since(&self, before: &Scrape) -> Vec<String> {
        let counts =
            |name: &str| ["_total", "_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end));
        let earlier = before.samples.iter().filter(|((name, _), _)| counts(name));
        let fallen = earlier.filter(|(series, value)| {
            !self.samples.iter().any(|(other, now)| other == series && now >= value)
        });
        fallen.map(|(series, value)| format!("{series:?} was {value}")).collect()
    }
}

/// Reads `name{label="value"} 1`, of labels without quotes.
fn sample(line: &str) -> (Series, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line} has a value"));
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let pairs = labels.trim_end_matches('}').split("\",").filter_map(|pair| pair.split_once("=\""));
    let pairs = pairs.map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()));
    let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
    ((name.to_owned(), pairs.collect()), value)
}
