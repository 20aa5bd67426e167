//! Draws the model.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table, Wrap};

use super::model::{Model, Order};
use super::plain;
use super::plain::{CALL_COLUMNS, WORKER_COLUMNS};
use super::view::{Failure, View};

/// Most failures that are shown where there is room.
const FAILURES: usize = 5;

/// Most calls that are shown where there is room.
const CALLS: usize = 5;

/// Heights from which calls and failures are shown.
const HEIGHT_WITH_CALLS: u16 = 20;
const HEIGHT_WITH_FAILURES: u16 = 14;

const HELP: &str =
    "q quit  space pause  tab next pool  sort by: n number a age c cpu m memory t call  i invert";

/// The same where that has no room.
const SHORT_HELP: &str = "q quit  space pause  tab next pool  sort by: n a c m t  i invert";

const HEADING: Style = Style::new().add_modifier(Modifier::REVERSED);
const WARNING: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);

pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    // What is wrong may take some lines.
    let state_rows = if model.trouble.is_some() { 3 } else { 1 };
    let [title_row, state_row, help_row] = [1, state_rows, 1].map(Constraint::Length);
    let [top, said, body, help] =
        Layout::vertical([title_row, state_row, Constraint::Min(0), help_row]).areas(area);
    frame.render_widget(Paragraph::new(title(model)), top);
    frame.render_widget(Paragraph::new(state(model)).wrap(Wrap { trim: true }), said);
    let text = if usize::from(area.width) < HELP.len() { SHORT_HELP } else { HELP };
    frame.render_widget(Paragraph::new(Line::styled(text, FAINT)), help);
    match &model.view {
        Some(View::Application(_)) => draw_pool(frame, body, model),
        Some(View::Server(_)) => {
            let lines: Vec<Line> = plain::server_lines(model).into_iter().map(Line::from).collect();
            frame.render_widget(Paragraph::new(lines), body);
        }
        None => {}
    }
}

/// What is watched.
fn title(model: &Model) -> Line<'static> {
    let who = match &model.view {
        Some(View::Application(application)) => {
            format!("  pid {}, forkpool {}", application.pid, plain::printable(&application.version))
        }
        Some(View::Server(_)) | None => String::new(),
    };
    Line::from(vec![
        Span::styled("forkpool_top ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(plain::printable(&model.address)),
        Span::raw(who),
    ])
}

/// What is wrong, or else the pools, of which one is shown.
fn state(model: &Model) -> Line<'static> {
    if let Some(trouble) = &model.trouble {
        return Line::styled(format!("trying again: {}", plain::printable(trouble)), WARNING);
    }
    let mut spans = Vec::new();
    if model.is_paused {
        spans.push(Span::styled("paused", HEADING));
        spans.push(Span::raw("  "));
    }
    for (at, pool) in model.pools().iter().enumerate() {
        let style = if at == model.shown_pool { HEADING } else { Style::new() };
        spans.push(Span::styled(plain::printable(&pool.pool), style));
        let notice = plain::notice(pool);
        if !notice.is_empty() {
            spans.push(Span::styled(format!(" {notice}"), WARNING));
        }
        spans.push(Span::raw("  "));
    }
    if model.order != Order::Number {
        spans.push(Span::styled(format!("sorted by {}", model.order.name()), FAINT));
    }
    Line::from(spans)
}

fn draw_pool(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let Some((pool, rates)) = model.pool() else { return };
    let height = frame.area().height;
    let calls = if height >= HEIGHT_WITH_CALLS { pool.calls.len().min(CALLS) } else { 0 };
    let failures = if height >= HEIGHT_WITH_FAILURES { pool.failures.len().min(FAILURES) } else { 0 };
    let rows = |count: usize| Constraint::Length(u16::try_from(count + usize::from(count > 0)).unwrap_or(0));
    let parts = [Constraint::Length(4), Constraint::Min(2), rows(calls), rows(failures)];
    let [summary, workers, called, failed] = Layout::vertical(parts).areas(area);
    let lines: Vec<Line> = plain::summary(pool, rates).into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines), summary);
    let cells = model.workers().into_iter().skip(model.scrolled).map(|worker| {
        let style = if worker.state == "idle" { FAINT } else { Style::new() };
        Row::new(plain::worker_cells(worker, rates)).style(style)
    });
    let widths = widths(&WORKER_COLUMNS, WORKER_COLUMNS.len() - 1);
    frame.render_widget(table(cells.collect(), widths, WORKER_COLUMNS.map(|(name, _)| name)), workers);
    if calls > 0 {
        let mut busiest: Vec<_> = pool.calls.iter().collect();
        busiest.sort_by_key(|call| std::cmp::Reverse(call.answered()));
        let cells = busiest.into_iter().take(calls).map(|call| Row::new(plain::call_cells(call, rates)));
        let columns = CALL_COLUMNS.map(|(name, _)| name);
        frame.render_widget(table(cells.collect(), self::widths(&CALL_COLUMNS, 0), columns), called);
    }
    if failures > 0 {
        frame.render_widget(failure_list(&pool.failures, failures), failed);
    }
}

/// The column at `wide` takes what the others leave.
fn widths<const COUNT: usize>(columns: &[(&str, u16); COUNT], wide: usize) -> Vec<Constraint> {
    let width = |(at, (_, width)): (usize, &(&str, u16))| {
        if at == wide { Constraint::Fill(1) } else { Constraint::Length(*width) }
    };
    columns.iter().enumerate().map(width).collect()
}

fn table<const COUNT: usize>(
    rows: Vec<Row<'static>>,
    widths: Vec<Constraint>,
    names: [&'static str; COUNT],
) -> Table<'static> {
    Table::new(rows, widths).header(Row::new(names).style(HEADING))
}

/// The last failures, the newest first.
fn failure_list(failures: &[Failure], most: usize) -> Paragraph<'static> {
    let heading = Line::styled("FAILURES", HEADING);
    let lines = failures.iter().rev().take(most).map(|failure| Line::from(plain::failure_line(failure)));
    Paragraph::new(std::iter::once(heading).chain(lines).collect::<Vec<_>>())
}
