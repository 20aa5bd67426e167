//! A terminal with a program in its foreground, and what that has drawn.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::harness::{PATIENCE, descendants};

/// Longest wait for output before a condition is looked at again.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

pub struct Terminal {
    master: File,
    /// Kept open, so that the settings can be read when the program has ended.
    side: OwnedFd,
    leader: Child,
    parser: vt100::Parser,
    before: Termios,
}

impl Terminal {
    /// Runs a program in the foreground of a new terminal, below a shell that says how it has ended and then waits for a
    /// line. `None` where no program makes terminals the controlling ones.
    pub fn with(program: &Command, rows: u16, columns: u16) -> Option<Self> {
        Command::new("setsid").arg("--version").stdout(Stdio::null()).status().ok()?;
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let side = rustix::fs::open(&name, flags, Mode::empty()).expect("its other side");
        tcsetwinsize(&master, size(rows, columns)).expect("a size");
        let before = tcgetattr(&side).expect("its settings");
        let share = || Stdio::from(side.try_clone().expect("a descriptor"));
        let mut leader = Command::new("setsid");
        let line = "\"$0\" \"$@\"; echo \"ended $?\"; read rest";
        leader.args(["--ctty", "sh", "-c", line]).arg(program.get_program()).args(program.get_args());
        let variables = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
        leader.envs(variables).env("TERM", "xterm-256color");
        let leader = leader.stdin(share()).stdout(share()).stderr(share()).spawn().expect("setsid");
        let parser = vt100::Parser::new(side_of(rows), side_of(columns), 0);
        Some(Terminal { master: master.into(), side, leader, parser, before })
    }

    /// The processes of the program.
    pub fn program(&self) -> Vec<u32> {
        descendants(self.leader.id())
    }

    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.parser.screen_mut().set_size(side_of(rows), side_of(columns));
        tcsetwinsize(&self.master, size(rows, columns)).expect("a size");
    }

    pub fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }

    /// The rows as texts.
    pub fn rows(&self) -> Vec<String> {
        let (_, columns) = self.screen().size();
        self.screen().rows(0, columns.get()).map(|row| row.trim_end().to_owned()).collect()
    }

    /// Waits until the screen shows what is wanted.
    ///
    /// # Panics
    ///
    /// After [`PATIENCE`], with what it shows.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !wanted(&self.rows()) {
            assert!(Instant::now() < patience, "still waiting until {what}:\n{}", self.rows().join("\n"));
            self.read();
        }
    }

    pub fn shows(&mut self, text: &str) {
        self.until(&format!("it shows {text:?}"), |rows| rows.iter().any(|row| row.contains(text)));
    }

    /// Waits until the program has ended with this status, and checks that the terminal is as it was before.
    pub fn ends(mut self, status: &str) {
        self.shows(&format!("ended {status}"));
        let screen = self.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor(), "the screen is that of the shell");
        let after = tcgetattr(&self.side).expect("its settings");
        let modes = |settings: &Termios| {
            (settings.input_modes, settings.output_modes, settings.control_modes, settings.local_modes)
        };
        assert_eq!(modes(&after), modes(&self.before));
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        if poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&LOOK)).expect("a terminal") == 1 {
            let count = self.master.read(&mut bytes).expect("output");
            self.parser.process(&bytes[..count]);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for pid in self.program() {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn side_of(length: u16) -> std::num::NonZeroU16 {
    length.try_into().expect("more than none")
}
