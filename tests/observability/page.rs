//! docs/OBSERVABILITY.md has every metric as it is exported, and alerts that can be evaluated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use forkpool::Metrics;
use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};

use crate::harness::*;
use crate::scrape::{Described, Scrape};

/// The labels that tell pools apart; the column of labels leaves them out.
const OF_POOLS: [&str; 2] = ["namesake", "pool"];

/// A row of the table of metrics.
struct Row {
    metric: Described,
    labels: BTreeSet<String>,
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OBSERVABILITY.md");
    std::fs::read_to_string(path).expect("the page is there")
}

/// The cells of the rows of a table, below its head, in the section with this heading.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("the page has the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|')).skip(2);
    rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The words in code of a cell.
fn code(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let row = |cells: Vec<String>| {
        let [name, kind, labels, help] = &cells[..] else { panic!("{cells:?} has four cells") };
        let metric =
            Described { name: name.trim_matches('`').to_owned(), kind: kind.clone(), help: help.clone() };
        Row { metric, labels: code(labels) }
    };
    table(&page(), "Metrics").into_iter().map(row).collect()
}

/// The values of each label that has a list of them.
fn values() -> BTreeMap<String, BTreeSet<String>> {
    let rows = table(&page(), "Labels");
    rows.iter().map(|cells| (cells[0].trim_matches('`').to_owned(), code(&cells[1]))).collect()
}

#[test]
fn the_page_has_every_metric_as_it_is_exported() {
    run(async {
        // Of one name, so that each label is there.
        let (first, second) = (pool_of_one(), pool_of_one());
        let metrics = Metrics::new().add(&first).add(&second);
        answer(first.send(Pid)).await.expect("a pid");
        answer(first.send(Raise(9))).await.expect_err("a death");
        settled(&first, 1).await;
        let scrape = Scrape::of(&metrics);
        let (mut listed, mut exported) = (Vec::new(), scrape.families());
        for Row { metric, labels } in rows() {
            let mut found = scrape.labels_of(&metric.name);
            found.retain(|label| !OF_POOLS.contains(&label.as_str()));
            assert_eq!(labels, found, "{}", metric.name);
            listed.push(metric);
        }
        listed.sort();
        exported.sort();
        assert_eq!(listed, exported);

        for (label, values) in values() {
            let unlisted: Vec<_> = scrape.values_of(&label).difference(&values).cloned().collect();
            assert_eq!(unlisted, [""; 0], "values of {label}");
        }
        first.stop(Duration::ZERO).await;
        second.stop(Duration::ZERO).await;
    });
}

/// The expressions of the rules on the page.
fn alerts() -> Vec<String> {
    let page = page();
    let lines = page.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    lines.map(|line| line.trim_matches('\'').to_owned()).collect()
}

#[test]
fn every_alert_is_promql_over_metrics_and_labels_that_exist() {
    let alerts = alerts();
    assert!(!alerts.is_empty(), "the page has alerts");
    for alert in alerts {
        let expression = parser::parse(&alert).unwrap_or_else(|error| panic!("{alert}: {error}"));
        let mut check = Check { selectors: 0, alert: &alert, rows: rows(), values: values() };
        walk_expr(&mut check, &expression).expect("it is walked");
        assert!(check.selectors > 0, "{alert} reads a metric");
    }
}

#[test]
fn text_that_is_no_promql_is_refused() {
    for text in
        ["rate(forkpool_calls_total[5m]", "sum by pool (forkpool_workers)", "forkpool_workers{state=idle}"]
    {
        assert!(parser::parse(text).is_err(), "{text}");
    }
}

/// Checks each selector of an alert.
struct Check<'a> {
    selectors: usize,
    alert: &'a str,
    rows: Vec<Row>,
    values: BTreeMap<String, BTreeSet<String>>,
}

impl ExprVisitor for Check<'_> {
    type Error = String;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, String> {
        match expression {
            Expr::VectorSelector(selector) => self.check(selector),
            Expr::MatrixSelector(selector) => self.check(&selector.vs),
            _ => {}
        }
        Ok(true)
    }
}

impl Check<'_> {
    fn check(&mut self, selector: &VectorSelector) {
        self.selectors += 1;
        let alert = self.alert;
        let name = selector.name.as_deref().unwrap_or_default();
        let is_of = |row: &&Row| {
            let suffix = name.strip_prefix(row.metric.name.as_str());
            let suffixes: &[&str] =
                if row.metric.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            suffix.is_some_and(|suffix| suffixes.contains(&suffix))
        };
        let row = self.rows.iter().find(is_of).unwrap_or_else(|| panic!("{alert}: there is no {name:?}"));
        for matcher in &selector.matchers.matchers {
            assert!(row.labels.contains(&matcher.name), "{alert}: {name} has no label {:?}", matcher.name);
            let listed = &self.values[&matcher.name];
            for value in matcher.value.split('|') {
                assert!(listed.contains(value), "{alert}: {value:?} is no {}", matcher.name);
            }
        }
    }
}
