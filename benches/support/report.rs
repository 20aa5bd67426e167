//! Figures: series of samples, their medians, a table and the ratio lines that are read by machines.

use std::fmt::Write;

/// Samples of one thing, one for every round.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    unit: Unit,
    samples: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Unit {
    Seconds,
    PerSecond,
    Bytes,
}

impl Series {
    /// Times, in seconds.
    pub fn seconds(name: impl Into<String>) -> Self {
        Series { name: name.into(), unit: Unit::Seconds, samples: Vec::new() }
    }

    /// Rates, per second.
    pub fn rates(name: impl Into<String>) -> Self {
        Series { unit: Unit::PerSecond, ..Series::seconds(name) }
    }

    /// Sizes, in bytes.
    pub fn bytes(name: impl Into<String>) -> Self {
        Series { unit: Unit::Bytes, ..Series::seconds(name) }
    }

    pub fn push(&mut self, sample: f64) {
        self.samples.push(sample);
    }

    pub fn median(&self) -> f64 {
        quantile_of(&self.samples, 0.5)
    }

    fn show(&self) -> String {
        let show = |quantile: f64| self.unit.show(quantile_of(&self.samples, quantile));
        let (low, middle, high) = (show(0.25), show(0.5), show(0.75));
        format!("  {:<58} {middle:>12}   {low:>12} … {high:<12} {:>5}", self.name, self.samples.len())
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Seconds if value < 1e-3 => format!("{:.2} µs", value * 1e6),
            Unit::Seconds if value < 1.0 => format!("{:.2} ms", value * 1e3),
            Unit::Seconds => format!("{value:.3} s"),
            Unit::PerSecond if value < 1e6 => format!("{:.1} k/s", value / 1e3),
            Unit::PerSecond => format!("{:.2} M/s", value / 1e6),
            Unit::Bytes => format!("{value:.0} B"),
        }
    }
}

/// A place in the sorted samples; not a number if there are none.
pub fn quantile_of(samples: &[f64], quantile: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = quantile * sorted.len().saturating_sub(1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(below), Some(above)) => f64::midpoint(*below, *above),
        _ => f64::NAN,
    }
}

/// What one execution found.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<String>,
    ratios: Vec<String>,
    points: Vec<String>,
}

impl Report {
    /// A row of the table: median, quartiles and number of samples.
    pub fn row(&mut self, series: &Series) {
        self.rows.push(series.show());
    }

    /// A line about something that is no series.
    pub fn note(&mut self, text: impl Into<String>) {
        self.rows.push(format!("  {}", text.into()));
    }

    pub fn ratio(&mut self, name: &str, value: f64) {
        self.ratios.push(format!("ratio {name} {value:.3}"));
    }

    /// Something that was not measured, and why.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.ratios.push(format!("skipped {name} {reason}"));
    }

    /// A point of a curve: what grows, and what it costs.
    pub fn point(&mut self, curve: &str, at: f64, value: f64) {
        self.points.push(format!("point {curve} {at} {value:e}"));
    }

    pub(super) fn print(&self) {
        let mut text =
            format!("  {:<58} {:>12}   {:>12}   {:<12} {:>5}\n", "", "median", "quartiles", "", "runs");
        for line in self.rows.iter().chain(&self.ratios).chain(&self.points) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{line}");
        }
        print!("{text}");
    }
}
