//! What a gateway process says on stderr, without ever waiting for stderr to be read.
//!
//! Lines are written by a thread of their own. When nobody reads stderr, lines are dropped and
//! counted; signals, reloads and shutdown go on.

use crate::tell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

/// Lines that wait to be written.
const LINES_MAX: usize = 256;

/// At the end, lines that wait have this long to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Says things on stderr; an instance among several says which it is.
#[derive(Clone)]
pub(super) struct Messages {
    prefix: String,
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Text(String),
    /// Everything before was written.
    End(SyncSender<()>),
}

impl Messages {
    /// Starts the thread.
    pub(super) fn start(prefix: String) -> anyhow::Result<Messages> {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        std::thread::Builder::new()
            .name("messages".into())
            .spawn(move || write(&waiting, &counted))?;
        Ok(Messages { prefix, lines, dropped })
    }

    /// Says something, unless too much waits to be written already.
    pub(super) fn tell(&self, text: &str) {
        let line = Line::Text(format!("{}{text}", self.prefix));
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes this where the gateway's log goes, for the whole process.
    pub(super) fn take_log(&self) {
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_target(false)
            .with_writer(self.clone())
            // What libraries say of themselves is not for operators.
            .with_filter(filter_fn(|meta| {
                *meta.level() <= tracing::Level::INFO && meta.target().starts_with("plimsoll")
            }));
        // Only one gateway runs in a process.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines));
    }

    /// Waits a moment for what was said to be written.
    pub(super) fn finish(&self) {
        let (done, written) = sync_channel(1);
        if self.lines.try_send(Line::End(done)).is_ok() {
            // Nobody reads, or all of it was read.
            let _ = written.recv_timeout(LAST_WORDS);
        }
    }
}

impl<'a> MakeWriter<'a> for Messages {
    type Writer = Saying;

    fn make_writer(&'a self) -> Saying {
        Saying { messages: self.clone(), text: Vec::new() }
    }
}

/// One line of the log on its way.
pub(super) struct Saying {
    messages: Messages,
    text: Vec<u8>,
}

impl std::io::Write for Saying {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Saying {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        if !text.trim().is_empty() {
            self.messages.tell(text.trim_end());
        }
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
            lost => tell(&format!("{lost} messages were dropped: stderr was not read")),
        }
    }
}
