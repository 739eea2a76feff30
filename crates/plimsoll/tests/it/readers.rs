//! Reports of a run, read by the readers that their users have (`tests/clients/read_reports.py`): they find
//! the counts and percentiles of the summary.

use crate::clients::python;
use crate::report::{documented_fields, fields};
use crate::run::{Folder, RPC, RPC_RESULT, plimsoll};
use crate::server::{Reply, Server};
use plimsoll_measure::{Nanos, RunFacts, WallClock, wire};
use plimsoll_plan::{Document, Plan, Variables};
use plimsoll_report::{Filters, Fold, Merge, Narrow, Run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// The plan's targets: names that each format must escape.
const NAMES: [&str; 3] = ["plain", "a, \"b\" <&> 100%", "=1+1"];

fn plan(server: &Server) -> String {
    let target = |name: &str| {
        let (name, url) = (json!(name), server.url());
        format!("[[target]]\nname = {name}\nrequest = \"POST {url}/\"\nbody = '{RPC}'\n")
    };
    let targets = NAMES.map(target).concat();
    format!(
        "name = \"read <me>\"\nrate = \"300/s\"\nrequests = 450\n{targets}\
         [[objective]]\nthat = \"success >= 99%\"\n[[objective]]\nthat = \"latency.p99 < 1ns\"\n"
    )
}

fn facts(unix_ns: u64, duration: Nanos) -> RunFacts {
    RunFacts {
        started_at: WallClock { unix_ns },
        duration,
        drain: Nanos::ZERO,
        warmup: Nanos::ZERO,
        cut_short: false,
        stopped_by: None,
        cpus: 2,
        workers: 1,
        forced: Vec::new(),
    }
}

/// Writes reports on `run` into the folder.
fn write_reports(folder: &Path) {
    let run = folder.join("run");
    for (format, name) in [
        ("hlog", "report.hlog"),
        ("hdr", "report.hgrm"),
        ("junit", "report.xml"),
        ("csv", "report.csv"),
        ("parquet", "report.parquet"),
    ] {
        let (run, to) = (run.to_str().unwrap(), folder.join(name));
        let done = plimsoll(&["report", run, "--format", format, "--output", to.to_str().unwrap()]);
        assert!([0, 98, 99].contains(&done.code), "{}", done.stderr);
        assert_eq!(done.stdout, "");
    }
}

#[test]
fn other_readers_find_the_figures_of_the_summary() {
    let server = Server::start(|number, _| match number % 10 {
        0 => Reply::with(500, "", "no"),
        _ => Reply::ok(RPC_RESULT),
    });
    let folder = Folder::new();
    let out = folder.path().join("run");
    let plan = folder.file("plan.toml", plan(&server));
    let args = ["run", &plan, "--out", out.to_str().unwrap(), "--format", "json"];
    let run: Value = serde_json::from_str(&plimsoll(&args).stdout).unwrap();
    let run = &run;
    write_reports(folder.path());
    let read = python("read_reports.py", &[folder.path().to_str().unwrap()]);

    // The interval log: all requests, and each target under its tag.
    let figures = |times: &Value| -> Value {
        ["count", "p50", "p90", "p99", "p999", "max"]
            .map(|name| (name.to_string(), times[name].clone()))
            .into_iter()
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    assert_eq!(read["tags"][""], figures(&run["latency"]));
    let tags = ["plain", "a%2C%20\"b\"%20<&>%20100%25", "=1+1"];
    for (tag, target) in tags.iter().zip(run["targets"].as_array().unwrap()) {
        assert_eq!(read["tags"][tag], figures(&target["latency"]), "{tag}: {}", read["tags"]);
    }
    let snapshots = std::fs::read_to_string(out.join("snapshots.jsonl")).unwrap();
    let started_at = wire::read(&snapshots).unwrap().header.started_at_unix_ns as f64 / 1e9;
    assert!((read["started_at"].as_f64().unwrap() - started_at).abs() < 0.001);
    // The reader returns milliseconds since 1970.
    let first = read["starts"][0].as_f64().unwrap() / 1e3;
    assert!((started_at - 0.001..started_at + 10.0).contains(&first), "{}", read["starts"]);

    // The percentile distribution: values and counts are those of HdrHistogram.
    assert_eq!(read["written"], read["expected"]);
    assert_eq!(read["heads"][0], read["heads"][1]);
    assert!(read["written"].as_array().unwrap().len() > 20, "{}", read["written"]);
    let max = run["latency"]["max"].as_f64().unwrap() / 1e6;
    let ms = |name: &str| read[name].as_f64().unwrap();
    let footer = [
        format!(
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]",
            ms("mean_ms"),
            ms("deviation_ms")
        ),
        format!("#[Max     = {max:12.3}, Total count    = {:12}]", 450),
        format!("#[Buckets = {:12}, SubBuckets     = {:12}]", 32, 2048),
    ];
    assert_eq!(read["footer"], json!(footer));
    assert_eq!(read["buckets"], json!([32, 2048]));

    // JUnit: the second objective is missed, and so is the first, with a tenth of all answers wrong.
    let verdict = if run["verdict"]["valid"] == true { json!([]) } else { json!(["failure"]) };
    let cases = json!([
        ["verdict: the run is valid", verdict],
        ["the run lasted until its end", []],
        ["success >= 99%", ["failure"]],
        ["latency.p99 < 1ns", ["failure"]],
    ]);
    assert_eq!(read["cases"], cases);
    assert_eq!(
        (&read["suite"]["name"], &read["suite"]["tests"]),
        (&json!("read <me>"), &json!("4"))
    );

    // Parquet: the same by target; exact values where the summary has those of a histogram.
    for (by, all) in [("duckdb", run), ("pandas", run)] {
        let found = &read["parquet"][by];
        let requests = &all["requests"];
        assert_eq!(found["rows"], requests["scheduled"], "{by}");
        assert_eq!(found["ok"], requests["ok"], "{by}");
        assert_eq!(found["sent"], requests["sent"], "{by}");
        assert_eq!(found["status"], all["status"], "{by}");
        assert_eq!(found["errors"], all["errors"], "{by}");
        assert_eq!(found["bytes_in"], all["bytes"]["in"], "{by}");
        let targets = all["targets"].as_array().unwrap().iter();
        let targets: serde_json::Map<_, _> = targets
            .map(|own| (own["name"].as_str().unwrap().into(), own["requests"]["scheduled"].clone()))
            .collect();
        assert_eq!(found["targets"], Value::Object(targets), "{by}");
        for name in ["latency", "service_time", "lag", "wait"] {
            for percentile in ["p50", "p90", "p99", "max"] {
                let exact = found[name][percentile].as_f64().unwrap();
                let summary = all[name][percentile].as_f64().unwrap();
                let near = exact <= summary && summary - exact <= exact / 1000.0 + 1.0;
                assert!(near, "{by}: {name}.{percentile} is {exact}, not {summary}");
            }
        }
    }
    assert_eq!(read["parquet"]["metadata"]["plimsoll.schema"], "plimsoll/samples/1");

    // CSV: all requests, each target, the stream.
    let rows = read["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names[..4], ["", NAMES[0], NAMES[1], "'=1+1"]);
    for (row, of) in
        rows.iter().zip([run, &run["targets"][0], &run["targets"][1], &run["targets"][2]])
    {
        for count in ["scheduled", "sent", "unsent", "ok", "failed"] {
            assert_eq!(row[count], of["requests"][count].to_string(), "{count}: {row}");
        }
        let p99: f64 = row["latency_p99_ms"].as_str().unwrap().parse().unwrap();
        assert_eq!(p99, of["latency"]["p99"].as_f64().unwrap() / 1e6);
        assert_eq!(row["errors_status"], of["errors"]["status"].as_u64().unwrap_or(0).to_string());
    }
}

/// The fields that a narrowed and merged summary adds are documented, and no others.
#[test]
fn fields_of_narrowed_and_merged_summaries_are_documented() {
    let read = |rate: &str| {
        let text = format!(
            "name = \"plan\"\nrate = \"{rate}\"\nduration = \"4s\"\n[[target]]\nrequest = \"GET http://h/\"\n\
             tags = {{ chain = \"eth\" }}\n[[target]]\nname = \"b\"\nrequest = \"GET http://h/\"\n\
             [[objective]]\nthat = \"success > 0%\"\n[[objective]]\nthat = \"rate.ok > 1/s\"\n\
             where = {{ chain = \"eth\" }}\n[[objective]]\nthat = \"rate.sent > 1/s\"\n"
        );
        let document = Document::new("plan.toml", text);
        Plan::read(&document, &Variables::none(), Path::new(".")).unwrap()
    };
    let plans = [read("1/s"), read("2/s")];
    let filters =
        Filters { tags: vec!["chain=eth".into()], from: Some(Nanos(0)), ..Filters::default() };
    let mut merge = Merge::new();
    for (label, plan) in [("one", &plans[0]), ("again", &plans[0]), ("other", &plans[1])] {
        let narrow = Narrow::new(plan, &filters, Nanos::from_secs(4)).unwrap();
        let summary = Fold::narrowed(plan, narrow).finish(facts(0, Nanos::from_secs(4)));
        merge.add(Run { label: label.into(), plan, summary });
    }
    let summary: Value = serde_json::from_str(&merge.finish().to_json()).unwrap();
    let mut found = BTreeSet::new();
    fields("", &summary, &mut found);
    found.retain(|field| {
        ["narrowed.", "merged.", "objectives_not_judged[]", "objectives[].run"]
            .iter()
            .any(|begin| field.starts_with(begin))
    });
    // These are described in summary.md; an object without fields is the field itself.
    found.retain(|field| !field.starts_with("merged.runs[].host."));
    let documented = documented_fields("reports.md", "| field of a part or a sum ");
    let may_lack =
        ["cost", "host", "logs", "scrapes"].map(|field| format!("merged.runs[].{field}"));
    let may_lack = may_lack.into_iter().chain(["objectives_not_judged[].where.*".to_owned()]);
    let lists = ["targets", "streams", "stages"].map(|list| format!("narrowed.{list}[]"));
    let found: BTreeSet<String> = found.into_iter().chain(may_lack).chain(lists).collect();
    assert_eq!(found, documented);
}
