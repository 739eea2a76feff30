//! What a report lists and in which order, and text that comes from files and peers.

use super::*;
use crate::summary::Split;
use plimsoll_measure::{SplitCounts, SplitValue};

/// The case that once showed healthy targets and one of five objectives.
#[test]
fn failures_are_never_cut() {
    let mut summary = full();
    let target = |n: u64| {
        let (ok, failed) = if n % 10 == 4 { (0, 100) } else { (100, 0) };
        (Group::of(format!("t{n}"), stats(ok, failed), active()), BTreeMap::new())
    };
    summary.targets = (0..30).map(target).collect();
    let that = |n: u64| Objective::parse(&format!("latency.p{} < 1ns", 90 + n)).unwrap();
    let judged = |n| Judged { objective: that(n), value: Some(5.0), ok: n == 2, run: None };
    summary.objectives = (0..5).map(judged).collect();
    (0..12).for_each(|n| summary.total.status.add(200 + 30 * n, 10 + u64::from(n)));
    let stage = |n| StageOf { number: n, load: format!("{n},000/s for 10s") };
    summary.stages = (1..=5).map(|n| figures("main", Some(stage(n)))).collect();
    summary.streams = ["a", "b", "main"].map(|name| figures(name, None)).into();
    for columns in [60, 80, 100, 160] {
        let text = summary.to_text(None, columns, false);
        assert_eq!(text.matches("  MISSED  ").count(), 4, "{columns}\n{text}");
        for name in ["t4", "t14", "t24"] {
            assert!(text.contains(&format!("\n  {name}  ")), "{columns}: {name}\n{text}");
        }
        assert!(text.contains("… 2"), "{columns}\n{text}");
        assert!(!text.contains("with failures"), "{columns}: none of them failed\n{text}");
    }
    // In a pipe, the failing ones are first, and the others in the plan's order.
    let text = summary.to_text(None, usize::MAX, false);
    let names = text.lines().skip_while(|line| !line.starts_with("  target  ")).skip(1);
    let names: Vec<_> = names.take(6).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["t4", "t14", "t24", "t0", "t1", "t2"]);
    assert!(!text.contains('…') && text.contains("\n  5: 5,000/s for 10s  "), "{text}");
    let statuses = text.lines().skip_while(|line| !line.starts_with("  HTTP status"));
    assert_eq!(statuses.take_while(|line| !line.is_empty()).count(), 1 + 12, "{text}");
    assert!(summary.to_text(Some("runs/x"), 100, false).contains("more in summary.json"));
}

#[test]
fn answers_by_header_value_have_a_table() {
    let mut summary = full();
    let mut counts = SplitCounts::default();
    for (value, n) in [("gw-1", 110), ("gw-2", 90), ("", 100)] {
        counts.add(Some(&SplitValue::of(value.as_bytes())), n);
    }
    counts.add(None, 20);
    counts.other = 80;
    summary.splits = vec![Split { header: "x-instance".into(), streams: vec![], counts }];
    let text = summary.to_text(None, usize::MAX, false);
    for line in [
        "  x-instance                         answers      share  from even",
        "  (empty)                                100       25 %       +0 %",
        "  gw-1                                   110     27.5 %      +10 %",
        "  gw-2                                    90     22.5 %      −10 %",
        "  (other)                                 80       20 %          –",
        "  (none)                                  20        5 %          –",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}

#[test]
fn names_cannot_control_the_terminal_and_columns_line_up() {
    let mut summary = full();
    let names = ["日本語のターゲット", "a\nb\x1b[2J", "🚀🚀 rocket", "plain"];
    for ((group, tags), name) in summary.targets.iter_mut().zip(names) {
        group.name = name.into();
        tags.insert("tag\x1b[1m".into(), name.into());
    }
    summary.name = "x\x1b]0;title\x07\n".into();
    summary.total.notes[0].text = "\x1b[31m\u{202e}red".into();
    for columns in [60, 80, 100, usize::MAX] {
        let text = summary.to_text(None, columns, false);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
        assert!(text.contains("a\\nb\\u{1b}[2J") && !text.contains('\u{202e}'), "{text}");
        let rows: Vec<_> = text.lines().skip_while(|line| !line.starts_with("  target ")).collect();
        let ends: Vec<_> = rows[..5].iter().map(|line| width(line)).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}\n{text}");
        assert!(ends[0] <= 100, "{text}");
    }
}

/// Without its escape sequences, a coloured report is the plain one.
#[test]
fn colours_change_nothing_else() {
    let mut summary = full();
    summary.total.status.add(503, 7);
    summary.total.status.add(200, 7);
    summary.objectives[0].ok = false;
    let (plain, colored) = (summary.to_text(None, 80, false), summary.to_text(None, 80, true));
    assert!(!plain.contains('\x1b'));
    for piece in [
        "\x1b[1;31mINVALID:\x1b[0m",
        "\x1b[1;31m  MISSED\x1b[0m",
        "\x1b[1;31m  plan_not_held:\x1b[0m",
        "\x1b[1;31m  reset\x1b[0m",
        "\x1b[1;31m  503\x1b[0m",
        "\x1b[33m  boba\x1b[0m",
        "\n  200",
    ] {
        assert!(colored.contains(piece), "{piece:?}\n{colored}");
    }
    let mut stripped = String::new();
    for piece in colored.split('\x1b') {
        let is_sequence = piece.starts_with('[');
        stripped += if is_sequence { piece.split_once('m').unwrap().1 } else { piece };
    }
    assert_eq!(stripped, plain);
}
