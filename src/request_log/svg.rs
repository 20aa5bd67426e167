//! A log as an SVG picture: a row for each timer along one time axis, and a mark for each message.

use std::fmt::{self, Write};
use std::time::Duration;

use super::text::{message_line, printable, truncated};
use super::{FinishedLog, LogLevel, LogMessage, LogTiming};

// All heights and widths are in pixels.

const ROW_HEIGHT: usize = 18;

/// An upper bound for the width of a character of the font.
const GLYPH_WIDTH: f64 = 7.3;

const MARGIN: usize = 10;

/// The width of the time axis.
const AXIS_WIDTH: usize = 800;

/// The width of the column to the right of the axis, with the duration of each timer.
const DURATION_WIDTH: usize = 130;

/// The longest name that is shown whole, in characters.
const MAX_NAME: usize = 48;

/// The number of parts into which the axis is divided.
const TICKS: usize = 5;

impl FinishedLog {
    /// Returns the log as an SVG picture.
    ///
    /// Time runs from left to right. Each message is a mark, whose colour shows its severity. Each timer is a row with
    /// its name, its bar and its duration; a failed timer is red and marked `failed`. The full text of a mark or a row
    /// is its tooltip.
    pub fn to_svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a string does not fail.
        let _ = SvgChart::of(self).draw(&mut svg);
        svg
    }
}

struct SvgChart<'a> {
    log: &'a FinishedLog,
    /// The time that the axis stands for.
    length: Duration,
    /// The x coordinate at which the axis begins.
    left: usize,
}

impl<'a> SvgChart<'a> {
    fn of(log: &'a FinishedLog) -> Self {
        let names = log.timers.iter().map(|timer| name(timer).chars().count()).max().unwrap_or(0);
        let left = 2 * MARGIN + (names.max("messages".len()) as f64 * GLYPH_WIDTH).ceil() as usize;
        SvgChart { log, length: log.length(), left }
    }

    fn draw(&self, svg: &mut String) -> fmt::Result {
        let width = self.left + AXIS_WIDTH + DURATION_WIDTH + MARGIN;
        let height = 2 * MARGIN + ROW_HEIGHT * (2 + self.log.timers.len());
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" font-size=\"12\">"
        )?;
        writeln!(svg, "<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>")?;
        self.draw_axis(svg, height)?;
        self.label(svg, 1, "messages", "#444444")?;
        self.log.messages.iter().try_for_each(|message| self.draw_message(svg, message))?;
        (2..).zip(&self.log.timers).try_for_each(|(row, timer)| self.draw_timer(svg, row, timer))?;
        writeln!(svg, "</svg>")
    }

    fn draw_axis(&self, svg: &mut String, height: usize) -> fmt::Result {
        for tick in 0..=TICKS {
            let x = self.left + AXIS_WIDTH * tick / TICKS;
            let at = self.length / TICKS as u32 * tick as u32;
            let (top, bottom) = (MARGIN + ROW_HEIGHT, height - MARGIN);
            writeln!(svg, "<path d=\"M{x} {top}V{bottom}\" stroke=\"#dddddd\"/>")?;
            text(svg, x, baseline(0), "#888888", &format!("{at:.1?}"))?;
        }
        Ok(())
    }

    fn draw_message(&self, svg: &mut String, message: &LogMessage) -> fmt::Result {
        let (x, y) = (self.x(message.at), MARGIN + ROW_HEIGHT + 2);
        let colour = match message.level {
            level if level <= LogLevel::ERROR => "#cc0000",
            level if level <= LogLevel::WARN => "#e08000",
            level if level <= LogLevel::INFO => "#3070b0",
            _ => "#a0b0c0",
        };
        let title = escaped(&message_line(message));
        let height = ROW_HEIGHT - 4;
        writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y}\" width=\"3\" height=\"{height}\" fill=\"{colour}\"><title>{title}</title></rect>"
        )
    }

    fn draw_timer(&self, svg: &mut String, row: usize, timer: &LogTiming) -> fmt::Result {
        let (from, to) = (self.x(timer.start), self.x(timer.end.unwrap_or(self.length)));
        let (bar, text_colour) =
            if timer.failure.is_some() { ("#d94040", "#aa0000") } else { ("#80b080", "#222222") };
        let duration = timer.duration_text();
        let failure = timer.failure.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
        let title = escaped(&printable(&format!("{}, {duration}{failure}", timer.name)));
        self.label(svg, row, &name(timer), text_colour)?;
        let (y, width, height) = (MARGIN + row * ROW_HEIGHT + 3, (to - from).max(2.0), ROW_HEIGHT - 6);
        writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{bar}\"><title>{title}</title></rect>"
        )?;
        let label = if timer.failure.is_some() { format!("{duration} failed") } else { duration };
        text(svg, self.left + AXIS_WIDTH + MARGIN, baseline(row), text_colour, &label)
    }

    fn label(&self, svg: &mut String, row: usize, label: &str, colour: &str) -> fmt::Result {
        text(svg, MARGIN, baseline(row), colour, label)
    }

    /// Returns the x coordinate of a time on the axis.
    fn x(&self, at: Duration) -> f64 {
        let part = at.as_secs_f64() / self.length.as_secs_f64().max(1e-9);
        self.left as f64 + part.min(1.0) * AXIS_WIDTH as f64
    }
}

fn name(timer: &LogTiming) -> String {
    truncated(&printable(&timer.name), MAX_NAME)
}

/// Returns the y coordinate of the text in a row; row 0 has the times of the axis.
fn baseline(row: usize) -> usize {
    MARGIN + row * ROW_HEIGHT + ROW_HEIGHT - 5
}

fn text(svg: &mut String, x: usize, y: usize, colour: &str, content: &str) -> fmt::Result {
    writeln!(svg, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>", escaped(content))
}

fn escaped(text: &str) -> String {
    // XML does not allow these two characters.
    let text = text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn log_of(calls: usize) -> FinishedLog {
        let at = |number: usize| Duration::from_millis(number as u64 * 10);
        let timer = |number: usize| LogTiming {
            name: format!("Render {number} <&> {}", "of a long name, ".repeat(number % 7)),
            start: at(number),
            end: (number % 5 != 4).then(|| at(number + number % 9)),
            failure: (number % 6 == 5).then(|| "killed by SIGKILL".to_owned()),
        };
        let message = |number: usize| LogMessage {
            at: at(number),
            level: LogLevel(10 * (number % 6) as u8),
            items: vec![json!(format!("message {number}\u{1}\u{ffff}")), json!({ "field": "<" })],
        };
        FinishedLog {
            end: Some(at(calls)),
            timers: (0..calls).map(timer).collect(),
            messages: (0..calls).map(message).collect(),
            ..FinishedLog::default()
        }
    }

    /// Returns left edge, right edge and baseline of every text, and the size of the picture.
    fn texts(svg: &str) -> (Vec<(f64, f64, f64)>, [f64; 2]) {
        let number = |from: &str, name: &str| -> f64 {
            let rest = from.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
            rest.split('"').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
        };
        let texts = svg.lines().filter(|line| line.starts_with("<text ")).map(|line| {
            let text = line.split_once('>').map_or("", |(_, rest)| rest.trim_end_matches("</text>"));
            let text = text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
            let x = number(line, " x");
            (x, x + text.chars().count() as f64 * GLYPH_WIDTH, number(line, " y"))
        });
        (texts.collect(), [number(svg, " width"), number(svg, " height")])
    }

    /// L8
    #[test]
    fn no_label_overlaps_another_or_leaves_the_picture() {
        for calls in [0, 1, 10, 200] {
            let svg = log_of(calls).to_svg();
            let (texts, [width, height]) = texts(&svg);
            assert_eq!(texts.len(), TICKS + 2 + 2 * calls);
            for (at, (left, right, y)) in texts.iter().enumerate() {
                assert!(
                    *left >= 0.0 && *right <= width && *y <= height && *y > 0.0,
                    "{calls}: {left} {right} {y}"
                );
                let others = texts[at + 1..].iter().filter(|(.., other)| (other - y).abs() < 12.0);
                for (other_left, other_right, _) in others {
                    assert!(
                        right <= other_left || other_right <= left,
                        "{calls}: {left}..{right} meets {other_left}"
                    );
                }
            }
        }
    }

    /// L8
    #[test]
    fn a_picture_has_a_bar_for_each_timer_a_mark_for_each_message_and_failures_in_red() {
        let svg = log_of(12).to_svg();
        assert_eq!(svg.matches("<title>").count(), 24);
        assert_eq!(svg.matches("#d94040").count(), 2);
        assert_eq!(svg.matches(" failed</text>").count(), 2);
        assert!(svg.contains("killed by SIGKILL</title>"));
        assert!(
            svg.chars().all(|char| char == '\n' || !(char.is_control() || char == '\u{ffff}')),
            "XML allows no other characters"
        );
        let tags = svg.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "");
        assert!(!tags.contains('&') && tags.matches('<').count() == tags.matches('>').count());
    }
}
