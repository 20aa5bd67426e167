//! Shows logs of requests, as text or as pictures: one log of JSON per line, of forkpool's or of Log::Defer's.
//!
//! ```sh
//! cargo run --example request_log -- --json > log.json
//! cargo run --example forkpool_log -- log.json
//! cargo run --example forkpool_log -- --level warn --sort --svg pictures < log.json
//! ```

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use forkpool::{FinishedLog, LogLevel};
use lexopt::prelude::*;

const USAGE: &str = "\
usage: forkpool_log [OPTION]... [FILE]...

Shows the logs in these files, one of JSON in each line. Without a file, and for -, standard input is read.

  --level LEVEL   only messages as severe as this: error, warn, info, debug, trace, or a number
  --sort          in the order in which the logs began, once all have been read
  --svg DIR       draws each log into a file of its own in this directory, in place of printing it
  --width N       columns of a printed log; else as many as the terminal has, or 100
  --color WHEN    always, never, or auto: if standard output is a terminal
  --help          prints this
";

/// Columns where there is no terminal.
const WIDTH: usize = 100;

#[derive(Debug, PartialEq)]
struct Options {
    level: Option<LogLevel>,
    sort: bool,
    svg: Option<PathBuf>,
    width: Option<usize>,
    color: Option<bool>,
    files: Vec<PathBuf>,
}

/// `None`: help was asked for.
fn options(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Options>, lexopt::Error> {
    let mut options =
        Options { level: None, sort: false, svg: None, width: None, color: None, files: vec![] };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("level") => options.level = Some(parser.value()?.parse_with(level)?),
            Long("sort") => options.sort = true,
            Long("svg") => options.svg = Some(parser.value()?.into()),
            Long("width") => options.width = Some(parser.value()?.parse()?),
            Long("color" | "colour") => options.color = parser.value()?.parse_with(color)?,
            Long("help") | Short('h') => return Ok(None),
            Value(file) => options.files.push(file.into()),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(options))
}

fn level(name: &str) -> Result<LogLevel, &'static str> {
    Ok(match name {
        "error" => LogLevel::ERROR,
        "warn" => LogLevel::WARN,
        "info" => LogLevel::INFO,
        "debug" => LogLevel::DEBUG,
        "trace" => LogLevel::TRACE,
        number => {
            LogLevel(number.parse().map_err(|_| "it is none of error, warn, info, debug, trace, 0 to 255")?)
        }
    })
}

fn color(when: &str) -> Result<Option<bool>, &'static str> {
    match when {
        "always" => Ok(Some(true)),
        "never" => Ok(Some(false)),
        "auto" => Ok(None),
        _ => Err("it is none of always, never, auto"),
    }
}

fn main() -> ExitCode {
    let options = match options(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("forkpool_log: {error}; see --help");
            return ExitCode::from(2);
        }
    };
    let out = io::stdout();
    let terminal = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
    let mut viewer = Viewer {
        columns: options.width.or(terminal.filter(|&columns| columns > 0)).unwrap_or(WIDTH),
        color: options.color.unwrap_or_else(|| out.is_terminal()),
        options,
        out: BufWriter::new(out.lock()),
        complaints: io::stderr(),
        kept: Vec::new(),
        shown: 0,
        all_well: true,
    };
    match viewer.show_all(&mut io::stdin().lock()) {
        Ok(()) if viewer.all_well => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkpool_log: cannot go on: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Viewer<O, C> {
    options: Options,
    columns: usize,
    color: bool,
    out: O,
    complaints: C,
    /// Those that wait to be sorted.
    kept: Vec<FinishedLog>,
    shown: usize,
    all_well: bool,
}

impl<O: Write, C: Write> Viewer<O, C> {
    /// Goes on after what it cannot read; fails where it cannot write.
    fn show_all(&mut self, stdin: &mut dyn BufRead) -> io::Result<()> {
        if let Some(directory) = &self.options.svg {
            fs::create_dir_all(directory).map_err(|error| about(directory, error))?;
        }
        if self.options.files.is_empty() {
            self.read("standard input", stdin)?;
        }
        for file in self.options.files.clone() {
            if file == Path::new("-") {
                self.read("standard input", stdin)?;
                continue;
            }
            match File::open(&file) {
                Ok(open) => self.read(&file.display().to_string(), &mut BufReader::new(open))?,
                Err(error) => self.complain(&about(&file, error).to_string())?,
            }
        }
        self.kept.sort_by_key(|log| log.start);
        std::mem::take(&mut self.kept).into_iter().try_for_each(|log| self.show(&log))
    }

    fn read(&mut self, name: &str, from: &mut dyn BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            match from.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => self.take_in(name, number, &line)?,
                Err(error) => {
                    self.complain(&format!("{name}: {error}"))?;
                    break;
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, name: &str, number: usize, line: &[u8]) -> io::Result<()> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let mut log: FinishedLog = match serde_json::from_slice(line) {
            Ok(log) => log,
            Err(error) => return self.complain(&format!("{name}, line {number}: this is no log: {error}")),
        };
        if let Some(level) = self.options.level {
            log.messages.retain(|message| message.level <= level);
        }
        if self.options.sort {
            self.kept.push(log);
            return Ok(());
        }
        self.show(&log)
    }

    fn show(&mut self, log: &FinishedLog) -> io::Result<()> {
        self.shown += 1;
        if let Some(directory) = &self.options.svg {
            let path = directory.join(format!("{}.svg", self.shown));
            // Nobody's picture is written over.
            let drawn = File::create_new(&path).and_then(|mut file| file.write_all(log.to_svg().as_bytes()));
            drawn.map_err(|error| about(&path, error))?;
            writeln!(self.out, "{}", path.display())?;
        } else {
            if self.shown > 1 {
                writeln!(self.out)?;
            }
            write!(self.out, "{}", log.to_text(self.columns, self.color))?;
        }
        // Another program may still be writing the next one.
        self.out.flush()
    }

    fn complain(&mut self, text: &str) -> io::Result<()> {
        self.all_well = false;
        writeln!(self.complaints, "forkpool_log: {text}")
    }
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: &str =
        r#"{"start":20.5,"end":1,"logs":[[0,30,"late"],[0.5,10,"wrong"]],"timers":[["work",0,1]]}"#;
    const EARLY: &str = r#"{"start":10.5,"logs":[[0,20,"early"]]}"#;

    fn parsed(arguments: &[&str]) -> Result<Option<Options>, String> {
        options(arguments.iter().map(OsString::from)).map_err(|error| error.to_string())
    }

    /// What is printed, and what is complained of.
    fn shown(arguments: &[&str], input: &str) -> (String, String) {
        let options = parsed(arguments).expect("the options are right").expect("no help is asked for");
        let mut viewer = Viewer {
            columns: options.width.unwrap_or(WIDTH),
            color: options.color == Some(true),
            options,
            out: Vec::new(),
            complaints: Vec::new(),
            kept: Vec::new(),
            shown: 0,
            all_well: true,
        };
        viewer.show_all(&mut input.as_bytes()).expect("memory can be written to");
        assert_eq!(viewer.all_well, viewer.complaints.is_empty());
        let text = |bytes| String::from_utf8(bytes).expect("it is text");
        (text(viewer.out), text(viewer.complaints))
    }

    /// L7, L8
    #[test]
    fn logs_are_shown_as_they_come_or_by_their_begin() {
        let input = format!("{LATE}\n\n{EARLY}");
        let early = "1970-01-01 00:00:10.500000 UTC, 0.0ns\n     0.0ns  WARN   early\n";
        let (text, complaints) = shown(&["--width", "60"], &input);
        assert!(
            text.starts_with("1970-01-01 00:00:20.500000 UTC, 1.0s\n     0.0ns  INFO   late\n"),
            "{text}"
        );
        assert!(text.ends_with(&format!("|      1.0s\n\n{early}")), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 60) && complaints.is_empty());
        let (text, _) = shown(&["--sort"], &input);
        assert!(text.starts_with(early), "{text}");
    }

    /// L8
    #[test]
    fn less_severe_messages_are_left_out() {
        let (text, _) = shown(&["--level", "warn"], LATE);
        assert!(!text.contains("late") && text.contains("wrong") && text.contains("work"), "{text}");
        let (text, _) = shown(&["--level", "9"], LATE);
        assert!(!text.contains("wrong"), "{text}");
    }

    #[test]
    fn what_is_no_log_is_told_of_with_its_line_and_the_rest_is_shown() {
        let input = format!("{{\n[]\n{{}}\n{EARLY}");
        let (text, complaints) = shown(&["/does/not/exist", "-"], &input);
        assert!(text.contains("early"), "{text}");
        let complaints: Vec<&str> = complaints.lines().collect();
        assert!(complaints[0].contains("/does/not/exist: No such file"), "{}", complaints[0]);
        for (line, complaint) in complaints.iter().enumerate().skip(1) {
            let expected = format!("standard input, line {line}: this is no log: ");
            assert!(complaint.contains(&expected), "{complaint}");
        }
        assert_eq!(complaints.len(), 4);
    }

    #[test]
    fn wrong_options_are_refused_by_name() {
        for (arguments, expected) in [
            (&["--levle", "warn"][..], "--levle"),
            (&["--level", "loud"], "loud"),
            (&["--level", "256"], "256"),
            (&["--width", "wide"], "wide"),
            (&["--color", "red"], "red"),
            (&["--svg"], "--svg"),
            (&["--sort=up"], "--sort"),
        ] {
            let error = parsed(arguments).expect_err("it is wrong");
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(parsed(&["--help"]), Ok(None));
    }
}
