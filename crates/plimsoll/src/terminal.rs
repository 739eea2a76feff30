//! The terminal view of a run (`--tui`): charts and the report so far on the whole terminal.
//!
//! A thread of its own draws and reads keys, so that a slow terminal does not delay the run's seconds. While it
//! is shown, messages to stderr are collected ([`divert`]); they are printed when it ends. Keys that stop the
//! run raise SIGINT, which a raw terminal does not, so that they mean what Ctrl-C means everywhere else.
//!
//! # Layout
//! - `screen`: what is drawn

mod screen;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{getpgrp, tcgetpgrp};
use plimsoll_report::{Part, Recent, Summary};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use screen::Screen;
use std::fs::File;
use std::io::{IsTerminal, Stderr, Write, stderr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long a key or a new second waits at most.
const POLL_MS: u8 = 100;
/// Events handled before the next drawing at most.
const EVENTS_MAX: usize = 1000;
/// How long a terminal that does not read may hold up the end of a run, and that of the process.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of messages kept at most; further messages are counted.
const MESSAGES_MAX: usize = 8 << 20;

/// Whether the terminal is in the state that [`restore`] ends.
static SHOWN: AtomicBool = AtomicBool::new(false);
static MESSAGES: Mutex<Messages> = Mutex::new(Messages::NONE);

/// What was to be printed to stderr.
struct Messages {
    lines: Vec<String>,
    bytes: usize,
    left_out: usize,
}

impl Messages {
    const NONE: Messages = Messages { lines: Vec::new(), bytes: 0, left_out: 0 };
}

/// The view; it ends when this is dropped.
pub(crate) struct Terminal {
    screen: Arc<Mutex<Screen>>,
    ended: Arc<AtomicBool>,
    /// Closed when the thread has ended.
    done: Receiver<()>,
}

/// Checks whether this process can show the view.
///
/// # Errors
/// Why it cannot.
pub(crate) fn check() -> anyhow::Result<()> {
    anyhow::ensure!(stderr().is_terminal(), "stderr is not a terminal");
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    anyhow::ensure!(!is_dumb, "TERM names no terminal that can show it");
    let terminal =
        File::open("/dev/tty").context("there is no terminal that keys could be read from")?;
    // A process in the background would be stopped when it changes the terminal.
    let is_in_front = tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp());
    anyhow::ensure!(is_in_front, "this process runs in the background");
    Ok(())
}

impl Terminal {
    /// Shows it.
    ///
    /// # Errors
    /// If [`check`] fails.
    pub(crate) fn start() -> anyhow::Result<Terminal> {
        check()?;
        enable_raw_mode().context("no keys can be read")?;
        SHOWN.store(true, Ordering::SeqCst);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        let (screen, ended): (Arc<Mutex<Screen>>, Arc<AtomicBool>) = Default::default();
        let (shown, until) = (screen.clone(), ended.clone());
        let (is_done, done) = channel();
        let drawn = File::open("/dev/tty").and_then(|keys| {
            execute!(stderr(), EnterAlternateScreen, cursor::Hide)?;
            let terminal = ratatui::Terminal::new(CrosstermBackend::new(stderr()))?;
            std::thread::Builder::new().name("terminal".into()).spawn(move || {
                draw(terminal, &keys, &shown, &until);
                drop(is_done);
            })
        });
        match drawn {
            Ok(_) => Ok(Terminal { screen, ended, done }),
            Err(error) => {
                restore();
                Err(error.into())
            }
        }
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().expect("no holder panics")
    }

    /// Shows a second: the progress line's parts, the share of the run that is over, and the last rows.
    pub(crate) fn progress(
        &self,
        name: &str,
        parts: Vec<Part>,
        done: Option<f64>,
        recent: Vec<Recent>,
    ) {
        self.screen().progress(name, parts, done, recent);
    }

    /// Shows the figures so far.
    pub(crate) fn show(&self, summary: &Summary) {
        self.screen().show(summary);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // A terminal that is gone or does not read may hold the thread for ever. If it panicked, the hook has
        // restored the terminal and printed why.
        let _ = self.done.recv_timeout(PATIENCE);
        restore();
        let Messages { lines, left_out, .. } = std::mem::replace(&mut *messages(), Messages::NONE);
        lines.iter().for_each(|line| _ = stderr().lock().write_all(line.as_bytes()));
        if left_out > 0 {
            crate::tell(&format!("… {left_out} more messages"));
        }
    }
}

fn messages() -> MutexGuard<'static, Messages> {
    MESSAGES.lock().expect("no holder panics")
}

/// Keeps a line for later if the view is shown; returns whether it does.
pub(crate) fn divert(line: &str) -> bool {
    if !SHOWN.load(Ordering::SeqCst) {
        return false;
    }
    let mut messages = messages();
    if messages.bytes + line.len() <= MESSAGES_MAX {
        messages.bytes += line.len();
        messages.lines.push(line.trim_start().into());
    } else {
        messages.left_out += 1;
    }
    true
}

/// Leaves the terminal as it was, if the view is shown; waits for a terminal that does not read no longer
/// than [`PATIENCE`].
pub(crate) fn restore() {
    if !SHOWN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = disable_raw_mode();
    let (is_done, done) = channel();
    let left = std::thread::Builder::new().name("restore".into()).spawn(move || {
        // The terminal may be gone.
        let _ = execute!(stderr(), LeaveAlternateScreen, cursor::Show);
        let _ = is_done.send(());
    });
    if left.is_ok() {
        let _ = done.recv_timeout(PATIENCE);
    }
}

/// Draws and reads keys until the view ends or the terminal is gone.
fn draw(
    mut terminal: ratatui::Terminal<CrosstermBackend<Stderr>>,
    keys: &File,
    screen: &Mutex<Screen>,
    ended: &AtomicBool,
) {
    let locked = || screen.lock().expect("no holder panics");
    let mut drawn = None;
    while !ended.load(Ordering::SeqCst) {
        let (said, all) = {
            let messages = messages();
            let from = messages.lines.len().saturating_sub(screen::MESSAGES);
            (messages.lines[from..].to_vec(), messages.lines.len())
        };
        let now = (locked().version(), all);
        if drawn != Some(now) {
            drawn = Some(now);
            // Errors are ignored: a closed terminal ends the run by SIGHUP.
            let _ = terminal.draw(|frame| locked().draw(frame, &said));
        }
        let mut ready = [PollFd::new(keys.as_fd(), PollFlags::POLLIN)];
        // EINTR: a signal, such as that of a new size.
        let _ = poll(&mut ready, PollTimeout::from(POLL_MS));
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if ready[0].revents().is_some_and(|events| events.intersects(gone)) {
            return;
        }
        for _ in 0..EVENTS_MAX {
            if !matches!(event::poll(Duration::ZERO), Ok(true)) {
                break;
            }
            // A key, or another size.
            drawn = None;
            match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    press(key, &mut locked());
                }
                _ => {}
            }
        }
    }
}

fn press(key: KeyEvent, screen: &mut Screen) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => stop(),
        KeyCode::Char('q') | KeyCode::Esc => stop(),
        KeyCode::Down | KeyCode::Char('j') => screen.scroll(1),
        KeyCode::Up | KeyCode::Char('k') => screen.scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => screen.scroll(10),
        KeyCode::PageUp => screen.scroll(-10),
        KeyCode::Home => screen.scroll(isize::MIN),
        _ => {}
    }
}

/// What Ctrl-C does elsewhere.
fn stop() {
    let _ = raise(Signal::SIGINT);
}
