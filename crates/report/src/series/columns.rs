//! Rows as columns of JSON, as a page's script reads them. Rates are per second, times in milliseconds,
//! shares from 0 to 1; numbers have four significant digits, and the times of rows whole milliseconds. A figure that is not known is `null`, and a
//! column that is not known for any row is absent.

use super::processes::{Readings, Summed};
use super::{Counts, Figures, MESSAGES, TimeSeries};
use crate::narrow::Scope;
use crate::seconds::Seconds;
use crate::text::clean;
use plimsoll_measure::{ErrorClass, Nanos};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

/// Columns of processes at most, so that a page stays small. Further ones are counted.
const COLUMNS_MAX: usize = 128;

/// A row as it is written.
struct Shown<'s> {
    counts: &'s Counts,
    figures: &'s Figures,
    /// The row before it.
    before: Option<&'s Counts>,
}

impl Shown<'_> {
    fn per_second(&self, n: u64) -> Option<f64> {
        self.counts.per_second(n, self.before.is_none())
    }
}

/// A JSON object in writing.
struct Object(String);

impl Object {
    fn new() -> Object {
        Object("{".into())
    }

    fn key(&mut self, name: &str) -> &mut String {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let _ = write!(self.0, "{}:", Value::from(name));
        &mut self.0
    }

    fn numbers(&mut self, name: &str, values: impl IntoIterator<Item = Option<f64>>) {
        let text = self.key(name);
        put_numbers(text, values);
    }

    /// A column, unless no value of it is known.
    fn known(&mut self, name: &str, values: Vec<Option<f64>>) {
        if values.iter().any(Option::is_some) {
            self.numbers(name, values);
        }
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn put_numbers(text: &mut String, values: impl IntoIterator<Item = Option<f64>>) {
    text.push('[');
    for (place, value) in values.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        put_number(text, value);
    }
    text.push(']');
}

/// A number with four significant digits, or more if it is a whole number.
fn put_number(text: &mut String, value: Option<f64>) {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        text.push_str("null");
        return;
    };
    let digits = match value.abs() {
        0.0 => 0,
        size => (3 - size.log10().floor() as i32).clamp(0, 9) as usize,
    };
    let number = format!("{value:.digits$}");
    let short = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    text.push_str(if short == "-0" { "0" } else { short });
}

fn millis(time: Option<Nanos>) -> Option<f64> {
    time.map(Nanos::as_millis_f64)
}

impl TimeSeries {
    /// The rows in `range` as a JSON object, as far as they are known for all requests of `scope`. Times are
    /// counted from `start`, the end of the warm-up.
    pub fn columns(&self, range: Range<usize>, scope: Scope, start: Nanos) -> String {
        let all: Vec<(&Counts, Cow<'_, Figures>)> = self.figures().collect();
        let rows: Vec<Shown<'_>> = (range.start..range.end.min(all.len()))
            .map(|place| Shown {
                counts: all[place].0,
                figures: &all[place].1,
                before: place.checked_sub(1).map(|place| all[place].0),
            })
            .collect();
        let mut object = Object::new();
        let _ = write!(object.key("from"), "{}", range.start);
        let mut times = |name, of: fn(Seconds) -> Nanos| {
            let since = rows.iter().map(|row| {
                let seconds = of(row.counts.seconds).as_secs_f64() - start.as_secs_f64();
                // In whole milliseconds; `f64` writes `20` and `20.009`.
                ((seconds * 1e3).round() / 1e3).to_string()
            });
            *object.key(name) += &format!("[{}]", since.collect::<Vec<String>>().join(","));
        };
        times("t", |seconds| seconds.from);
        times("to", |seconds| seconds.to);
        self.put_counts(&mut object, &rows, scope);
        put_times(&mut object, &rows, scope);
        put_errors(&mut object, &rows);
        if scope == Scope::Run {
            put_host(&mut object, &rows);
            self.put_processes(&mut object, &rows);
            self.put_logs(&mut object, &rows);
        }
        object.end()
    }

    fn put_counts(&self, object: &mut Object, rows: &[Shown<'_>], scope: Scope) {
        if scope != Scope::Targets {
            // These count all targets of a stream.
            if self.open.contains(&true) {
                object.numbers("planned", rows.iter().map(|row| row.counts.planned));
            }
            if self.open.contains(&false) {
                object.numbers("users", rows.iter().map(|row| Some(row.counts.users)));
            }
            let rate = |row: &Shown<'_>| row.per_second(row.counts.dispatched);
            object.numbers("dispatched", rows.iter().map(rate));
        }
        let mut rate = |name, of: fn(&Counts) -> u64| {
            object.numbers(name, rows.iter().map(|row| row.per_second(of(row.counts))));
        };
        rate("sent", |counts| counts.requests.sent);
        rate("ok", |counts| counts.requests.ok);
        rate("failed", |counts| counts.requests.failed);
        rate("unsent", |counts| counts.requests.unsent);
        if rows.iter().any(|row| row.counts.messages.is_some()) {
            // A second without counts had no messages.
            for (place, name) in MESSAGES.into_iter().enumerate() {
                let count = |row: &Shown<'_>| row.counts.messages.map_or(0, |own| own[place]);
                object.numbers(name, rows.iter().map(|row| row.per_second(count(row))));
            }
        }
        if scope == Scope::Run {
            let level =
                |of: fn(&Counts) -> u64| rows.iter().map(move |row| Some(of(row.counts) as f64));
            object.numbers("in_flight", level(|counts| counts.in_flight));
            object.numbers("connected", level(|counts| counts.connected));
        }
    }

    /// Matching lines per second, by log and pattern.
    fn put_logs(&self, object: &mut Object, rows: &[Shown<'_>]) {
        if self.patterns.is_empty() {
            return;
        }
        let mut parts = Vec::new();
        for (log, patterns) in self.patterns.iter().enumerate() {
            for (place, pattern) in patterns.iter().enumerate() {
                let count = |row: &Shown<'_>| row.counts.logs.get(log)?.get(place).copied();
                let mut values = String::new();
                put_numbers(&mut values, rows.iter().map(|row| row.per_second(count(row)?)));
                let pattern = Value::from(clean(pattern));
                parts.push(format!("{{\"log\":{log},\"pattern\":{pattern},\"values\":{values}}}"));
            }
        }
        *object.key("logs") += &format!("[{}]", parts.join(","));
    }

    /// Figures with a label are summed over the processes of a group, so that no sum lacks a part.
    fn put_processes(&self, object: &mut Object, rows: &[Shown<'_>]) {
        let lines = self.processes.summed();
        if lines.is_empty() {
            return;
        }
        let text = object.key("processes");
        text.push('[');
        for (place, Summed { of, lines }) in lines.iter().take(COLUMNS_MAX).enumerate() {
            if place > 0 {
                text.push(',');
            }
            let figure = self.processes.figure(of);
            let (process, metric) = (of.process, Value::from(figure.name.as_str()));
            let (label, own) = (Value::from(clean(&of.label)), figure.is_own);
            let _ = write!(
                text,
                "{{\"process\":{process},\"metric\":{metric},\"own\":{own},\"label\":{label},\"values\":"
            );
            let value = |row: &Shown<'_>| {
                let known = lines.iter().filter_map(|(process, line)| {
                    let now = row.counts.processes.get(*process)?;
                    let before = row.before.and_then(|before| before.processes.get(*process));
                    read(before.unwrap_or(&Readings::NONE), now, *line, figure.is_counter)
                });
                known.reduce(|a, b| a + b)
            };
            put_numbers(text, rows.iter().map(value));
            text.push('}');
        }
        text.push(']');
        let left_out = self.processes.left_out + lines.len().saturating_sub(COLUMNS_MAX);
        if left_out > 0 {
            let _ = write!(object.key("processes_left_out"), "{left_out}");
        }
    }
}

/// The value of a line in a row; `None` if no page was read in it.
fn read(before: &Readings, now: &Readings, line: usize, is_counter: bool) -> Option<f64> {
    if now.pages == before.pages {
        return None;
    }
    if !is_counter {
        return now.value(line);
    }
    let span = now.at - before.at;
    let grown = now.value(line).unwrap_or(0.0) - before.value(line).unwrap_or(0.0);
    (before.pages > 0 && span > 0.0).then(|| grown / span)
}

fn put_times(object: &mut Object, rows: &[Shown<'_>], scope: Scope) {
    const NAMES: [&str; 5] = ["p50", "p90", "p99", "p999", "max"];
    let mut group = |name: &str, of: fn(&Figures) -> &[Option<Nanos>; 5]| {
        let mut times = Object::new();
        for (place, name) in NAMES.iter().enumerate() {
            times.numbers(name, rows.iter().map(|row| millis(of(row.figures)[place])));
        }
        object.key(name).push_str(&times.end());
    };
    group("latency", |figures| &figures.latency);
    group("service_time", |figures| &figures.service_time);
    if scope != Scope::Targets {
        object.known("lag", rows.iter().map(|row| millis(row.figures.lag)).collect());
        object.known("wait", rows.iter().map(|row| millis(row.figures.wait)).collect());
    }
    for (place, name) in ["message_lag_p50", "message_lag_p99"].into_iter().enumerate() {
        let lag = |row: &Shown<'_>| millis(row.figures.message_lag[place]);
        object.known(name, rows.iter().map(lag).collect());
    }
    let heat = object.key("heat");
    heat.push('[');
    for (place, row) in rows.iter().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        heat.push_str(comma);
        let cells = row.figures.heat.iter().flat_map(|(cell, n)| [u64::from(*cell), *n]);
        put_numbers(heat, cells.map(|n| Some(n as f64)));
    }
    heat.push(']');
}

/// Failures and arrivals not sent, by class, of the classes that occurred.
fn put_errors(object: &mut Object, rows: &[Shown<'_>]) {
    let seen: BTreeSet<ErrorClass> =
        rows.iter().flat_map(|row| row.counts.errors.keys().copied()).collect();
    let mut errors = Object::new();
    for class in seen {
        let count = |row: &Shown<'_>| row.counts.errors.get(&class).copied().unwrap_or(0);
        let rate = |row: &Shown<'_>| row.per_second(count(row));
        errors.numbers(&class.to_string(), rows.iter().map(rate));
    }
    object.key("errors").push_str(&errors.end());
}

fn put_host(object: &mut Object, rows: &[Shown<'_>]) {
    let mut host = Object::new();
    let mut column = |name, of: fn(&crate::timeline::Span) -> Option<f64>| {
        host.known(name, rows.iter().map(|row| row.counts.host.as_ref().and_then(of)).collect());
    };
    column("cpu", |span| span.cpu_busy());
    column("worker", |span| span.worker_busy());
    column("run_delay", |span| span.run_delay());
    column("steal", |span| span.steal());
    column("ports", |span| span.ports.map(|usage| usage.share()));
    column("descriptors", |span| span.host.descriptors.map(|usage| usage.share()));
    column("conntrack", |span| span.host.conntrack.map(|usage| usage.share()));
    column("memory", |span| span.host.memory.map(|usage| usage.share()));
    column("dropped", |span| Some(span.dropped() as f64));
    column("throttled", |span| span.host.throttled.map(|own| own.time.as_secs_f64()));
    object.key("host").push_str(&host.end());
}

#[cfg(test)]
mod tests {
    use super::put_number;

    #[test]
    fn numbers_are_short() {
        let check = |value: Option<f64>, text: &str| {
            let mut written = String::new();
            put_number(&mut written, value);
            assert_eq!(written, text, "{value:?}");
        };
        check(None, "null");
        check(Some(f64::NAN), "null");
        check(Some(0.0), "0");
        check(Some(-0.00000000001), "0");
        check(Some(1.0), "1");
        check(Some(0.123456), "0.1235");
        check(Some(12.3000004), "12.3");
        check(Some(1_234_567.8), "1234568");
        check(Some(99.999), "100");
        check(Some(0.00002), "0.00002");
    }
}
