//! Non-blocking messages on stderr.
//!
//! A dedicated thread writes the lines. If stderr is a pipe that is not read, lines are dropped and
//! counted, while signals, reloads and shutdown keep working.

use crate::tell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

/// Maximum number of queued lines.
const LINES_MAX: usize = 256;

/// On exit, how long to wait for queued lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Queues lines for stderr; with several instances, each line is prefixed with the instance's name.
#[derive(Clone)]
pub(super) struct Messages {
    prefix: String,
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Text(String),
    /// Acknowledged once all earlier lines are written.
    End(SyncSender<()>),
}

impl Messages {
    /// Starts the writer thread.
    pub(super) fn start(prefix: String) -> anyhow::Result<Messages> {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        std::thread::Builder::new()
            .name("messages".into())
            .spawn(move || write(&waiting, &counted))?;
        Ok(Messages { prefix, lines, dropped })
    }

    /// Queues a line; drops and counts it if the queue is full.
    pub(super) fn print(&self, text: &str) {
        let line = Line::Text(format!("{}{text}", self.prefix));
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends the process's `tracing` events here.
    pub(super) fn capture_tracing(&self) {
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_target(false)
            .with_writer(self.clone())
            // Events of libraries are not meant for operators.
            .with_filter(filter_fn(|meta| {
                *meta.level() <= tracing::Level::INFO && meta.target().starts_with("plimsoll")
            }));
        // Fails only if a subscriber is already set; a process runs only one gateway.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines));
    }

    /// Waits up to [`FLUSH_MAX`] for queued lines to be written.
    pub(super) fn finish(&self) {
        let (done, written) = sync_channel(1);
        if self.lines.try_send(Line::End(done)).is_ok() {
            // A timeout means that stderr is not read; the process exits either way.
            let _ = written.recv_timeout(FLUSH_MAX);
        }
    }
}

impl<'a> MakeWriter<'a> for Messages {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine { messages: self.clone(), text: Vec::new() }
    }
}

/// One log line, queued on drop.
pub(super) struct LogLine {
    messages: Messages,
    text: Vec<u8>,
}

impl std::io::Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        if !text.trim().is_empty() {
            self.messages.print(text.trim_end());
        }
    }
}

/// A count with its noun, in the singular or plural.
pub(super) fn counted(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// Maximum number of ids in a list; further ones are counted.
const SHOWN_MAX: usize = 5;

/// The first few ids, and how many more there are.
pub(super) fn listed(ids: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = ids.iter().take(SHOWN_MAX).map(AsRef::as_ref).collect();
    match ids.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn write(waiting: &Receiver<Line>, dropped: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        match line {
            Line::Text(text) => tell(&text),
            Line::End(done) => drop(done.try_send(())),
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            1 => tell("1 message was dropped because stderr was not read"),
            lost => tell(&format!("{lost} messages were dropped because stderr was not read")),
        }
    }
}
