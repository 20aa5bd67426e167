//! What is drawn, what keys do, and how the terminal is left.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::*;
use crate::play;
use crate::pty::Terminal;
use crate::scripts::{Place, idle_pool};

tests! {
    a_pool_is_drawn_within_80_columns_and_24_rows_and_q_restores_the_terminal,
    a_terminal_of_any_size_is_drawn_anew_and_control_c_restores_it,
    a_panic_restores_the_terminal,
    a_signal_to_end_restores_the_terminal,
    keys_sort_pause_and_show_other_pools,
    an_application_that_ends_is_said_and_looked_for_until_it_is_back,
    a_viewer_that_is_killed_gives_up_its_place,
}

const NO_TERMINAL: &str = "skipped: there is no program `setsid` here";

fn top(arguments: &[&str]) -> Command {
    let mut command = play("top");
    command.args(arguments).args(["--interval", "0.1"]);
    command
}

/// M1
fn a_pool_is_drawn_within_80_columns_and_24_rows_and_q_restores_the_terminal() {
    run(async {
        let Some(mut terminal) = Terminal::with(&top(&["--demo"]), 24, 80) else {
            return println!("{NO_TERMINAL}");
        };
        terminal.until("it has drawn a pool with calls and a failure", |rows| {
            let shows = |text: &str| rows.iter().any(|row| row.contains(text));
            let is_drawn =
                ["NUMBER", "MEAN RUN", "Resize", "FAILURES", "died: worker"].iter().all(|text| shows(text));
            let has_rates = rows.iter().any(|row| row.starts_with("rates") && row.contains("/s calls"));
            is_drawn && has_rates && shows("leased ")
        });
        let rows = terminal.rows();
        assert!(terminal.screen().alternate_screen());
        assert!(rows[0].starts_with("forkpool_top unix:/") && rows[1].starts_with("painters"), "{rows:#?}");
        assert!(rows[2].starts_with("workers ") && rows[3].starts_with("queue "), "{rows:#?}");
        assert!(rows[23].starts_with("q quit") && rows[23].ends_with("i invert"), "{rows:#?}");
        // For the picture in docs/OBSERVABILITY.md.
        if std::env::var_os("FORKPOOL_SHOW_SCREEN").is_some() {
            terminal.until("there are some failures", |rows| {
                rows.iter().filter(|row| row.contains("died: worker")).count() > 2
            });
            println!("{}", terminal.rows().join("\n"));
        }
        terminal.press("q");
        terminal.ends("0");
    });
}

fn a_terminal_of_any_size_is_drawn_anew_and_control_c_restores_it() {
    run(async {
        let Some(mut terminal) = Terminal::with(&top(&["--demo"]), 24, 80) else {
            return println!("{NO_TERMINAL}");
        };
        terminal.shows("NUMBER");
        for (rows, columns) in [(40, 120), (10, 40), (2, 10), (1, 1), (24, 80)] {
            terminal.resize(rows, columns);
            let help: String = "q quit  space".chars().take(usize::from(columns)).collect();
            terminal.until(&format!("{columns} columns and {rows} rows are drawn"), |drawn| {
                let last = drawn.last().is_some_and(|row| row.starts_with(help.trim_end()));
                let first = drawn[0].starts_with("forkpool_");
                last && (first || rows < 3 || columns < 10)
            });
        }
        terminal.shows("NUMBER");
        terminal.press("\u{3}");
        terminal.ends("0");
    });
}

fn a_panic_restores_the_terminal() {
    run(async {
        let mut command = play("panic");
        command.arg("unix:/nowhere");
        let Some(mut terminal) = Terminal::with(&command, 24, 80) else {
            return println!("{NO_TERMINAL}");
        };
        terminal.shows("cannot draw");
        terminal.ends("101");
    });
}

fn a_signal_to_end_restores_the_terminal() {
    run(async {
        let (place, pool) = (Place::new(), idle_pool("signalled", 1).await);
        pool.console(place.address()).open().expect("a console");
        for end in [Signal::TERM, Signal::INT, Signal::HUP] {
            let Some(mut terminal) = Terminal::with(&top(&[&place.address()]), 24, 80) else {
                return println!("{NO_TERMINAL}");
            };
            terminal.shows("NUMBER");
            terminal.program().into_iter().for_each(|pid| signal(pid, end));
            terminal.ends("0");
        }
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// The numbers of the workers that are shown, from above.
fn numbers(rows: &[String]) -> Vec<u64> {
    let table = rows.iter().skip_while(|row| !row.starts_with("NUMBER")).skip(1);
    table.map_while(|row| row.split_whitespace().next()?.parse().ok()).collect()
}

fn keys_sort_pause_and_show_other_pools() {
    run(async {
        let (place, pool, other) = (Place::new(), idle_pool("first", 3).await, idle_pool("second", 1).await);
        pool.console(place.address()).add(&other).open().expect("a console");
        let Some(mut terminal) = Terminal::with(&top(&[&place.address()]), 24, 80) else {
            return println!("{NO_TERMINAL}");
        };
        terminal.until("all are shown", |rows| numbers(rows) == [1, 2, 3]);
        terminal.press("i");
        terminal.until("the order is inverted", |rows| numbers(rows) == [3, 2, 1]);
        terminal.press("i\u{1b}[B");
        terminal.until("it has scrolled", |rows| numbers(rows) == [2, 3]);
        terminal.press("a");
        terminal.until("sorting shows the first again", |rows| numbers(rows).len() == 3);
        terminal.press("\t");
        terminal.until("the other pool is shown", |rows| numbers(rows) == [1]);
        terminal.press("\t ");
        terminal.until("it is paused", |rows| rows[1].starts_with("paused  first"));
        kill(pool.stats().pids[0]);
        settled(&pool, 3).await;
        // A key has it drawn; what it shows stays.
        terminal.press("n");
        terminal.until("the order is that of numbers", |rows| numbers(rows) == [1, 2, 3]);
        terminal.press(" ");
        terminal.until("it goes on", |rows| numbers(rows) == [2, 3, 4]);
        terminal.press("q");
        terminal.ends("0");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        bounded("the end", other.stop(Duration::ZERO)).await;
    });
}

fn an_application_that_ends_is_said_and_looked_for_until_it_is_back() {
    run(async {
        let (place, pool) = (Place::new(), idle_pool("first", 1).await);
        pool.console(place.address()).open().expect("a console");
        let Some(mut terminal) = Terminal::with(&top(&[&place.address()]), 24, 80) else {
            return println!("{NO_TERMINAL}");
        };
        terminal.shows("NUMBER");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        terminal.shows("trying again");
        assert!(terminal.rows().iter().any(|row| row.starts_with("NUMBER")), "what was seen last stays");
        let next = idle_pool("next", 1).await;
        next.console(place.address()).open().expect("a console");
        terminal.until("it has found the next", |rows| rows[1].starts_with("next"));
        bounded("the end", next.stop(Duration::ZERO)).await;
        terminal.shows("trying again");
        terminal.press("q");
        terminal.ends("0");
    });
}

/// M2
fn a_viewer_that_is_killed_gives_up_its_place() {
    run(async {
        let (place, pool) = (Place::new(), idle_pool("alone", 1).await);
        pool.console(place.address()).max_clients(1).open().expect("a console");
        let Some(mut terminal) = Terminal::with(&top(&[&place.address()]), 24, 80) else {
            return println!("{NO_TERMINAL}");
        };
        terminal.shows("NUMBER");
        let second = top(&[&place.address(), "--once"]).output().expect("the viewer");
        let told = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(!second.status.success() && told.contains("max_clients"), "{told}");
        for pid in terminal.program() {
            kill(pid);
        }
        terminal.shows("ended 137");
        until("there is a place", || {
            top(&[&place.address(), "--once"]).output().expect("the viewer").status.success()
        })
        .await;
        drop(terminal);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
