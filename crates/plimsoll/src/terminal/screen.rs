//! What the terminal view draws: a line of progress, charts of rate and latency, and the report so far, in
//! any size. On a small terminal the charts go first, then the report's end.

use plimsoll_measure::Nanos;
use plimsoll_report::{Line as ReportLine, Part, Recent, Summary, Tone, clean};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, LineGauge, Paragraph, Wrap};

/// Charts need this many rows and columns, and the report below them this many rows.
const CHART_ROWS: u16 = 7;
const CHART_COLUMNS: u16 = 34;
const REPORT_ROWS: u16 = 8;
/// The charts take at most one part in this many of the rows.
const CHART_SHARE: u16 = 3;
/// Messages shown at most.
pub(super) const MESSAGES: usize = 3;
const KEYS: &str = "q stop   ↑ ↓ scroll";

/// The name, colour and points of a line in a chart.
type Curve<'a> = (&'a str, Color, &'a Vec<(f64, f64)>);

/// A run as it is shown.
#[derive(Default)]
pub(super) struct Screen {
    version: u64,
    name: String,
    parts: Vec<Part>,
    /// The share of the run that is over, if its length is known.
    done: Option<f64>,
    recent: Vec<Recent>,
    verdict: Option<(Tone, String, String)>,
    summary: Option<Box<Summary>>,
    /// The report's lines, and the width for which they were made.
    lines: Option<(u16, Vec<ReportLine>)>,
    /// The first line of the report that is shown.
    top: usize,
    /// The last one that can be.
    top_max: usize,
}

impl Screen {
    /// Changes with what is shown.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn progress(
        &mut self,
        name: &str,
        parts: Vec<Part>,
        done: Option<f64>,
        recent: Vec<Recent>,
    ) {
        self.version += 1;
        self.name = clean(name);
        (self.parts, self.done, self.recent) = (parts, done, recent);
    }

    pub(super) fn show(&mut self, summary: &Summary) {
        self.version += 1;
        self.verdict = Some(summary.verdict_in_words(true));
        self.summary = Some(Box::new(summary.clone()));
        self.lines = None;
    }

    /// Moves the report by lines.
    pub(super) fn scroll(&mut self, by: isize) {
        self.version += 1;
        self.top = self.top.saturating_add_signed(by).min(self.top_max);
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, said: &[String]) {
        let area = frame.area();
        let messages: Vec<&String> = said.iter().rev().take(MESSAGES).rev().collect();
        let foot = 1 + messages.len() as u16;
        let head = 2 + u16::from(self.verdict.is_some());
        let room = area.height.saturating_sub(head + foot);
        let charts = (area.height / CHART_SHARE).max(CHART_ROWS);
        let fits = room >= charts + REPORT_ROWS && area.width >= CHART_COLUMNS;
        let charts = if fits { charts } else { 0 };
        let [head, chart_area, report, foot] = Layout::vertical([
            Constraint::Length(head),
            Constraint::Length(charts),
            Constraint::Min(0),
            Constraint::Length(foot),
        ])
        .areas(area);
        self.draw_head(frame, head);
        if charts > 0 {
            self.draw_charts(frame, chart_area);
        }
        self.draw_report(frame, report);
        let mut lines: Vec<Line<'_>> = messages
            .into_iter()
            .map(|text| Line::from(text.lines().next().unwrap_or_default()))
            .collect();
        lines.push(Line::from(KEYS).style(Style::new().add_modifier(Modifier::DIM)));
        frame.render_widget(Paragraph::new(lines), foot);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut spans = vec![Span::styled(self.name.clone(), style(Tone::Strong))];
        let mut room = usize::from(area.width).saturating_sub(Line::from(spans.clone()).width());
        for Part { text, tone } in &self.parts {
            let span = Span::styled(format!("  {text}"), style(*tone));
            let Some(left) = room.checked_sub(span.width()) else { break };
            room = left;
            spans.push(span);
        }
        let [line, gauge, verdict] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(0)])
                .areas(area);
        frame.render_widget(Line::from(spans), line);
        if let Some(done) = self.done {
            let widget = LineGauge::default()
                .ratio(done.clamp(0.0, 1.0))
                .label(format!("{:.0} %", done.clamp(0.0, 1.0) * 100.0))
                .filled_style(Style::new().fg(Color::Cyan));
            frame.render_widget(widget, gauge);
        }
        if let Some((tone, word, text)) = &self.verdict {
            let text = if text.is_empty() { String::new() } else { format!(": {text}") };
            let line = Line::from(vec![Span::styled(word.clone(), style(*tone)), Span::raw(text)]);
            frame.render_widget(Paragraph::new(line).wrap(Wrap { trim: true }), verdict);
        }
    }

    fn draw_charts(&self, frame: &mut Frame<'_>, area: Rect) {
        if area.width < 2 * CHART_COLUMNS {
            self.draw_rates(frame, area);
            return;
        }
        let [rates, times] = Layout::horizontal([Constraint::Fill(1); 2]).areas(area);
        self.draw_rates(frame, rates);
        let millis = |of: fn(&Recent) -> Option<Nanos>| -> Vec<(f64, f64)> {
            let known = self.recent.iter().filter_map(|row| Some((row.at, of(row)?)));
            known.map(|(at, time)| (at, time.as_millis_f64())).collect()
        };
        let (p50, p99) = (millis(|row| row.p50), millis(|row| row.p99));
        let lines = [("p99", Color::Yellow, &p99), ("p50", Color::Cyan, &p50)];
        let label = |value: f64| Nanos((value * 1e6) as u64).to_string();
        self.draw_chart(frame, times, "latency", &lines, label);
    }

    fn draw_rates(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = |of: fn(&Recent) -> f64| -> Vec<(f64, f64)> {
            self.recent.iter().map(|row| (row.at, of(row))).collect()
        };
        let planned: Vec<(f64, f64)> =
            self.recent.iter().filter_map(|row| Some((row.at, row.planned?))).collect();
        let sent = rows(|row| row.sent);
        let failed = rows(|row| row.failed);
        let mut lines = Vec::new();
        if planned.iter().any(|(_, rate)| *rate > 0.0) {
            lines.push(("planned", Color::DarkGray, &planned));
        }
        lines.push(("sent", Color::Cyan, &sent));
        if failed.iter().any(|(_, rate)| *rate > 0.0) {
            lines.push(("failed", Color::Red, &failed));
        }
        self.draw_chart(frame, area, "per second", &lines, |value| format!("{value:.0}"));
    }

    fn draw_chart(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        lines: &[Curve<'_>],
        label: impl Fn(f64) -> String,
    ) {
        let values = lines.iter().flat_map(|(_, _, line)| line.iter().map(|(_, y)| *y));
        let top = values.fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.05;
        let (from, to) = match (self.recent.first(), self.recent.last()) {
            (Some(first), Some(last)) => (first.at, last.at.max(first.at + 1.0)),
            _ => (0.0, 1.0),
        };
        let mut heading = vec![Span::styled(title.to_string(), style(Tone::Strong))];
        for (name, color, _) in lines {
            heading.push(Span::styled(format!(" {name}"), Style::new().fg(*color)));
        }
        let sets = lines.iter().map(|(_, color, line)| {
            Dataset::default()
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(*color))
                .data(line)
        });
        let second = |at: f64| format!("{at:.0}s");
        let chart = Chart::new(sets.collect())
            .block(Block::new().title(Line::from(heading)))
            .x_axis(Axis::default().bounds([from, to]).labels([second(from), second(to)]))
            .y_axis(Axis::default().bounds([0.0, top]).labels(["0".to_string(), label(top)]));
        frame.render_widget(chart, area);
    }

    fn draw_report(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let Some(summary) = &self.summary else { return };
        if self.lines.as_ref().is_none_or(|(width, _)| *width != area.width) {
            self.lines = Some((area.width, summary.to_lines(area.width.into())));
        }
        let lines = self.lines.as_ref().map(|(_, lines)| lines.as_slice()).unwrap_or_default();
        self.top_max = lines.len().saturating_sub(area.height.into());
        self.top = self.top.min(self.top_max);
        let shown = lines.iter().skip(self.top).take(area.height.into()).map(line);
        frame.render_widget(Paragraph::new(shown.collect::<Vec<_>>()), area);
    }
}

fn line(line: &ReportLine) -> Line<'_> {
    let (start, rest) = line.text.split_at(line.toned);
    Line::from(vec![Span::styled(start, style(line.tone)), Span::raw(rest)])
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Strong => Style::new().add_modifier(Modifier::BOLD),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warn => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen() -> Screen {
        let mut screen = Screen::default();
        let row = |at: u32| Recent {
            at: f64::from(at),
            planned: Some(200.0),
            sent: 190.0,
            failed: 10.0,
            p50: Some(Nanos::from_millis(5)),
            p99: (at != 3).then(|| Nanos::from_millis(50)),
        };
        let part = |text: &str| Part { text: text.into(), tone: Tone::Warn };
        let parts = vec![part("8s/20s"), part("200/s sent, 95 % ok")];
        screen.progress("a \u{1b}[2J plan", parts, Some(0.4), (0..8).map(row).collect());
        screen
    }

    fn drawn(columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        let said = vec!["a warning\n".to_string()];
        let mut screen = screen();
        terminal.draw(|frame| screen.draw(frame, &said)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..rows).map(|y| row(y).trim_end().to_string() + "\n").collect()
    }

    #[test]
    fn it_fits_any_terminal() {
        for columns in [0, 1, 20, 34, 60, 68, 80, 200] {
            for rows in [0, 1, 2, 3, 8, 20, 24, 60] {
                drawn(columns, rows);
            }
        }
        let wide = drawn(100, 30);
        for part in
            ["8s/20s  200/s sent, 95 % ok", "per second planned sent failed", "latency p99 p50"]
        {
            assert!(wide.contains(part), "{part} in\n{wide}");
        }
        assert!(
            wide.contains("a warning") && wide.contains(KEYS) && !wide.contains('\u{1b}'),
            "{wide}"
        );
        let narrow = drawn(60, 24);
        assert!(narrow.contains("per second") && !narrow.contains("latency p99"), "{narrow}");
        let low = drawn(100, 10);
        assert!(!low.contains("per second") && low.contains("8s/20s"), "{low}");
    }
}
