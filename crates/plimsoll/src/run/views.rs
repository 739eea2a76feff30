//! What shows a run while it goes on, besides its progress line.

use crate::live::{self, Board};
use crate::metrics::{self, Page};
use crate::plan_source::SourceArgs;
use crate::{tell, terminal};

/// The views of a run.
#[derive(Default)]
pub(crate) struct Views {
    /// The page for Prometheus.
    pub(crate) metrics: Option<Page>,
    /// The page with charts.
    pub(crate) live: Option<Board>,
    /// Whether the terminal shows charts.
    pub(crate) terminal: bool,
}

/// Flags that ask for views.
#[derive(clap::Args)]
pub(crate) struct ViewArgs {
    /// Serve a page with live charts, by default at http://127.0.0.1:8089/
    #[arg(long, value_name = "ADDR", num_args = 0..=1)]
    live: Option<Option<String>>,
    /// Show the run with charts on the whole terminal; q stops it
    #[arg(long)]
    tui: bool,
}

impl ViewArgs {
    /// Gives back a plan that follows `--live`.
    pub(super) fn give_back(&mut self, source: &mut SourceArgs) {
        if let Some(address) = &mut self.live {
            source.reclaim(address);
        }
    }

    /// Starts the views that the flags ask for. `metrics` is the address of a page for Prometheus.
    pub(crate) fn start(&self, metrics: Option<&str>) -> anyhow::Result<Views> {
        let shows = self.tui.then(terminal::check);
        let mut views = Views { terminal: matches!(shows, Some(Ok(()))), ..Views::default() };
        if let Some(Err(why)) = shows {
            tell(&format!("warning: --tui shows nothing: {why}"));
        }
        if let Some(address) = metrics {
            let page = Page::default();
            let bound = metrics::serve(address, page.clone())?;
            tell(&format!("metrics at http://{bound}/metrics"));
            views.metrics = Some(page);
        }
        if let Some(address) = &self.live {
            let board = Board::new();
            let bound = live::serve(address.as_deref(), &board)?;
            tell(&format!("live view at http://{bound}/"));
            views.live = Some(board);
        }
        Ok(views)
    }
}
