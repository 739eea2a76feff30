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
use nix::sys::signal::{Signal, raise};
use plimsoll_report::{Part, Recent, Summary};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use screen::Screen;
use std::io::{IsTerminal, Stderr, Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a key or a new second waits at most.
const POLL: Duration = Duration::from_millis(100);
/// Messages kept at most; further ones are counted.
const MESSAGES_MAX: usize = 200;

/// Whether the terminal is in the state that [`restore`] ends.
static SHOWN: AtomicBool = AtomicBool::new(false);
static MESSAGES: Mutex<Messages> = Mutex::new(Messages { lines: Vec::new(), left_out: 0 });

/// What was to be printed to stderr.
struct Messages {
    lines: Vec<String>,
    left_out: usize,
}

/// The view; it ends when this is dropped.
pub(crate) struct Terminal {
    screen: Arc<Mutex<Screen>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Shows it.
    ///
    /// # Errors
    /// If stderr is not a terminal that can show it, or keys cannot be read.
    pub(crate) fn start() -> anyhow::Result<Terminal> {
        anyhow::ensure!(stderr().is_terminal(), "stderr is not a terminal");
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        anyhow::ensure!(!is_dumb, "TERM names no terminal that can show it");
        enable_raw_mode().context("no keys can be read")?;
        SHOWN.store(true, Ordering::SeqCst);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        let screen: Arc<Mutex<Screen>> = Arc::default();
        let ended: Arc<AtomicBool> = Arc::default();
        let (shown, until) = (screen.clone(), ended.clone());
        let drawn = execute!(stderr(), EnterAlternateScreen, cursor::Hide)
            .and_then(|()| ratatui::Terminal::new(CrosstermBackend::new(stderr())))
            .and_then(|terminal| {
                std::thread::Builder::new()
                    .name("terminal".into())
                    .spawn(move || draw(terminal, &shown, &until))
            });
        match drawn {
            Ok(thread) => Ok(Terminal { screen, ended, thread: Some(thread) }),
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
        if let Some(thread) = self.thread.take() {
            // If it panicked, the hook has restored the terminal and printed why.
            let _ = thread.join();
        }
        restore();
        let none = Messages { lines: Vec::new(), left_out: 0 };
        let Messages { lines, left_out } = std::mem::replace(&mut *messages(), none);
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
    if messages.lines.len() < MESSAGES_MAX {
        messages.lines.push(line.trim_start().into());
    } else {
        messages.left_out += 1;
    }
    true
}

/// Leaves the terminal as it was, if the view is shown.
pub(crate) fn restore() {
    if SHOWN.swap(false, Ordering::SeqCst) {
        // The terminal may be gone.
        let _ = execute!(stderr(), LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}

/// Draws and reads keys until the view ends.
fn draw(
    mut terminal: ratatui::Terminal<CrosstermBackend<Stderr>>,
    screen: &Mutex<Screen>,
    ended: &AtomicBool,
) {
    let locked = || screen.lock().expect("no holder panics");
    let mut drawn = None;
    while !ended.load(Ordering::SeqCst) {
        let said = messages().lines.clone();
        let now = (locked().version(), said.len());
        if drawn != Some(now) {
            drawn = Some(now);
            // Errors are ignored: a closed terminal ends the run by SIGHUP.
            let _ = terminal.draw(|frame| locked().draw(frame, &said));
        }
        match event::poll(POLL) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => {
                // Without keys the view goes on.
                std::thread::park_timeout(POLL);
                continue;
            }
        }
        // A key, or another size.
        drawn = None;
        if let Ok(Event::Key(key)) = event::read()
            && key.kind != KeyEventKind::Release
        {
            press(key, &mut locked());
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
