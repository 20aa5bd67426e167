//! The terminal: keys, the screen, and a thread that looks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::model::{Model, Order};
use super::source::Source;
use super::view::View;

/// How long a key is waited for before it is looked whether there is something new.
const KEY_WAIT: Duration = Duration::from_millis(50);

/// Shows the model until a key or a signal ends it, and restores the terminal in any case: also after a panic.
pub fn watch(
    source: Source,
    model: Model,
    interval: Duration,
    draw: fn(&mut Frame<'_>, &Model),
) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot use the terminal: {error}");
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, is_over.clone()).map_err(cannot)?;
    }
    let (sender, looks) = sync_channel(1);
    let (stop, stopped) = channel::<()>();
    let is_paused = Arc::new(AtomicBool::new(false));
    let paused = is_paused.clone();
    // It is not joined: it may wait for an application that does not answer.
    thread::spawn(move || look(source, &sender, &stopped, interval, &paused));
    let mut terminal = ratatui::try_init().map_err(cannot)?;
    let result = Screen { model, looks, is_over, is_paused }.run(&mut terminal, draw);
    drop(stop);
    ratatui::try_restore().map_err(cannot)?;
    result.map_err(cannot)
}

/// Looks again and again until the other side is gone.
fn look(
    mut source: Source,
    sender: &SyncSender<Result<View, String>>,
    stopped: &Receiver<()>,
    interval: Duration,
    is_paused: &AtomicBool,
) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
        if is_paused.load(Ordering::Relaxed) {
            continue;
        }
        let look = source.read().map(|reading| reading.view);
        if sender.send(look).is_err() {
            return;
        }
    }
}

struct Screen {
    model: Model,
    looks: Receiver<Result<View, String>>,
    is_over: Arc<AtomicBool>,
    is_paused: Arc<AtomicBool>,
}

impl Screen {
    fn run(
        mut self,
        terminal: &mut ratatui::DefaultTerminal,
        draw: fn(&mut Frame<'_>, &Model),
    ) -> io::Result<()> {
        let mut is_new = true;
        while !self.is_over.load(Ordering::Relaxed) {
            if is_new {
                terminal.draw(|frame| draw(frame, &self.model))?;
            }
            is_new = event::poll(KEY_WAIT)?;
            if is_new {
                match event::read()? {
                    Event::Key(key) if self.press(key) => return Ok(()),
                    // A new size is seen when it is drawn.
                    _ => {}
                }
            }
            is_new |= self.take_look()?;
        }
        Ok(())
    }

    /// Returns whether there is something new.
    fn take_look(&mut self) -> io::Result<bool> {
        match self.looks.try_recv() {
            // A look that was under way when the pause began is not shown.
            Ok(_) if self.model.is_paused => Ok(false),
            Ok(look) => {
                self.model.update(look);
                Ok(true)
            }
            Err(TryRecvError::Empty) => Ok(false),
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the thread that looks has ended")),
        }
    }

    /// Returns whether the key ends it all.
    fn press(&mut self, key: KeyEvent) -> bool {
        let model = &mut self.model;
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Char('c') if is_control => return true,
            KeyCode::Char(' ' | 'p') => {
                model.is_paused = !model.is_paused;
                self.is_paused.store(model.is_paused, Ordering::Relaxed);
            }
            KeyCode::Tab => model.show_next_pool(),
            KeyCode::Up => model.scroll(false),
            KeyCode::Down => model.scroll(true),
            KeyCode::Char('n') => model.sort_by(Order::Number),
            KeyCode::Char('a') => model.sort_by(Order::Age),
            KeyCode::Char('c') => model.sort_by(Order::Processor),
            KeyCode::Char('m') => model.sort_by(Order::Memory),
            KeyCode::Char('t') => model.sort_by(Order::CallTime),
            KeyCode::Char('i') => model.is_inverted = !model.is_inverted,
            _ => {}
        }
        false
    }
}
