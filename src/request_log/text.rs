//! A log as text: a line for each message, and a chart of the timers.

use std::fmt::{self, Write};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{FinishedLog, LogLevel, LogMessage, LogTiming};
use crate::escape;

/// The number of columns of the text that `Display` prints.
const DEFAULT_COLUMNS: usize = 100;

/// The smallest and the largest number of columns. The largest stays below 65,535, the greatest width that
/// `std::fmt` supports.
const COLUMN_RANGE: RangeInclusive<usize> = 40..=10_000;

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

impl fmt::Display for FinishedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(DEFAULT_COLUMNS, false))
    }
}

impl FinishedLog {
    /// Returns the log as text: a line with its start and length, a line for each message, a chart of the timers, and a
    /// line for each value of its data.
    ///
    /// The chart is `columns` wide; values below 40 and above 10,000 are replaced by these limits. The bar of a failed
    /// timer ends with an `x`, and the failure follows on a line of its own. Control characters are printed as escapes.
    ///
    /// `colour` adds ANSI escape sequences for terminals, which highlight severe messages and failed timers.
    pub fn to_text(&self, columns: usize, colour: bool) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_text(&mut text, columns.clamp(*COLUMN_RANGE.start(), *COLUMN_RANGE.end()), colour);
        text
    }

    fn write_text(&self, out: &mut String, columns: usize, colour: bool) -> fmt::Result {
        writeln!(out, "{}, {:.1?}", calendar(self.start), self.length())?;
        for message in &self.messages {
            let line = format!("{:>10}  {:<5}  {}", time(message.at), message.level, message_line(message));
            writeln!(out, "{}", coloured(&line, message_colour(message.level).filter(|_| colour)))?;
        }
        let names = self.timers.iter().map(|timer| printable(&timer.name).chars().count()).max().unwrap_or(0);
        let chart = Chart { names: names.min(columns / 3), columns, length: self.length() };
        for timer in &self.timers {
            let row_colour = timer.failure.is_some().then_some(RED).filter(|_| colour);
            writeln!(out, "{}", coloured(&chart.row(timer), row_colour))?;
            if let Some(failure) = &timer.failure {
                writeln!(
                    out,
                    "{:width$}  {}",
                    "",
                    coloured(&printable(failure), row_colour),
                    width = chart.names
                )?;
            }
        }
        for (name, value) in &self.data {
            writeln!(out, "{}", printable(&format!("{name}: {value}")))?;
        }
        Ok(())
    }

    /// Returns the time from the log's start to its end, or to its last message or timer, if that is later.
    pub(super) fn length(&self) -> Duration {
        let ends = self.timers.iter().map(|timer| timer.end.unwrap_or(timer.start));
        let messages = self.messages.iter().map(|message| message.at);
        self.end.into_iter().chain(ends).chain(messages).max().unwrap_or_default()
    }
}

fn message_colour(level: LogLevel) -> Option<&'static str> {
    match level {
        level if level <= LogLevel::ERROR => Some(RED),
        level if level <= LogLevel::WARN => Some(YELLOW),
        level if level > LogLevel::INFO => Some(DIM),
        _ => None,
    }
}

fn coloured(text: &str, colour: Option<&str>) -> String {
    match colour {
        Some(colour) => format!("{colour}{text}{RESET}"),
        None => text.to_owned(),
    }
}

fn time(at: Duration) -> String {
    format!("{at:.1?}")
}

/// Returns the text of a message and its further items, on one line.
pub(super) fn message_line(message: &LogMessage) -> String {
    let mut line = printable(&message.text());
    for item in message.items.iter().skip(1) {
        line += &printable(&format!(" {item}"));
    }
    line
}

/// Escapes the characters of a text that are not shown.
pub(super) fn printable(text: &str) -> String {
    escape::printable(text).into_owned()
}

/// The chart of the timers.
struct Chart {
    /// The width of the column of names.
    names: usize,
    /// The width of the whole chart.
    columns: usize,
    /// The time that the width of the bars stands for.
    length: Duration,
}

impl Chart {
    fn row(&self, timer: &LogTiming) -> String {
        // Besides the names and the bar: two columns between them, two for the `|` around the bar, ten for the
        // duration.
        let width = self.columns.saturating_sub(self.names + 14).max(10);
        let from = self.column(timer.start, width).min(width - 1);
        let to = self.column(timer.end.unwrap_or(self.length), width).clamp(from + 1, width);
        let mut bar = "=".repeat(to - from);
        if timer.failure.is_some() {
            bar.pop();
            bar.push('x');
        }
        let name = truncated(&printable(&timer.name), self.names);
        format!(
            "{name:<names$}  |{:from$}{bar:<left$}|{took:>10}",
            "",
            took = timer.duration_text(),
            names = self.names,
            left = width - from
        )
    }

    /// Returns the column of a time in a bar of this width.
    fn column(&self, at: Duration, width: usize) -> usize {
        let part = at.as_secs_f64() / self.length.as_secs_f64().max(1e-9);
        (part * width as f64).round() as usize
    }
}

/// Shortens a text to this many characters; the last one is `…` then.
pub(super) fn truncated(text: &str, columns: usize) -> String {
    match text.chars().count() <= columns {
        true => text.to_owned(),
        false => text.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Formats a time since the beginning of 1970 as a date and a time of day, in UTC.
///
/// # References
///
/// - Howard Hinnant, [chrono-Compatible Low-Level Date
///   Algorithms](https://howardhinnant.github.io/date_algorithms.html), `civil_from_days`
fn calendar(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    // Days since 1 March of the year 0.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:06} UTC",
        since_1970.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn timer(name: &str, start: u64, end: Option<u64>, failure: Option<&str>) -> LogTiming {
        let millis = Duration::from_millis;
        LogTiming {
            name: name.to_owned(),
            start: millis(start),
            end: end.map(millis),
            failure: failure.map(str::to_owned),
        }
    }

    fn example() -> FinishedLog {
        let message = |at: u64, level: LogLevel, items: Vec<serde_json::Value>| LogMessage {
            at: Duration::from_millis(at),
            level,
            items,
        };
        FinishedLog {
            start: Duration::from_micros(1_340_421_702_168_684),
            end: Some(Duration::from_millis(100)),
            messages: vec![
                message(0, LogLevel::INFO, vec![json!("signing up"), json!({ "id": 7 })]),
                message(50, LogLevel::WARN, vec![json!("line\n\u{1b}[2Jtwo"), json!("\u{9b}2J")]),
                message(60, LogLevel(35), vec![json!("of another level")]),
            ],
            timers: vec![
                timer("Hash", 0, Some(50), None),
                timer("a span of a long name, which is cut", 10, Some(20), None),
                timer("Render", 50, Some(100), Some("killed")),
                timer("short", 99, Some(99), None),
                timer("open", 75, None, None),
            ],
            data: serde_json::Map::from_iter([("user".to_owned(), json!(17))]),
        }
    }

    /// L8
    #[test]
    fn a_log_prints_as_a_time_line_and_a_chart() {
        let text = example().to_text(64, false);
        let messages: Vec<&str> = text.lines().take(4).collect();
        assert_eq!(
            messages,
            [
                "2012-06-23 03:21:42.168684 UTC, 100.0ms",
                "     0.0ns  INFO   signing up {\"id\":7}",
                "    50.0ms  WARN   line\\n\\u{1b}[2Jtwo \"\\u{9b}2J\"",
                "    60.0ms  35     of another level",
            ]
        );
        let chart: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            chart,
            [
                "Hash                   |===============              |    50.0ms",
                "a span of a long nam…  |   ===                       |    10.0ms",
                "Render                 |               =============x|    50.0ms",
                "                       killed",
                "short                  |                            =|     0.0ns",
                "open                   |                      =======|      runs",
                "user: 17",
            ]
        );
    }

    /// L8
    #[test]
    fn a_text_has_the_requested_width_and_colours_on_request() {
        for columns in [0, 40, 80, 200, 70_000] {
            let text = example().to_text(columns, false);
            assert!(!text.contains('\x1b'));
            let bars = text.lines().filter(|line| line.contains('|'));
            assert!(
                bars.clone().count() == 5
                    && bars.clone().all(|bar| bar.chars().count() == columns.clamp(40, 10_000))
            );
        }
        let coloured = example().to_text(80, true);
        assert!(coloured.contains("\x1b[31mRender") && coloured.contains("\x1b[33m    50.0ms  WARN"));
        assert_eq!(FinishedLog::default().to_string(), "1970-01-01 00:00:00.000000 UTC, 0.0ns\n");
    }

    #[test]
    fn dates_follow_the_calendar() {
        let table = [
            (0, "1970-01-01 00:00:00.000000 UTC"),
            (951_782_400, "2000-02-29 00:00:00.000000 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59.000000 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00.000000 UTC"),
        ];
        for (seconds, expected) in table {
            assert_eq!(calendar(Duration::from_secs(seconds)), expected);
        }
    }
}
