//! The page of a run in a real browser: charts are drawn, nothing is loaded, labels are text, and all of it
//! can be used by keyboard, on paper, on a phone and without scripts.

use crate::browser::{Browser, Tab};
use crate::run::{Folder, RPC, RPC_RESULT, plimsoll, start};
use crate::server::{Reply, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

/// Names that would become elements, end the script, end an attribute, or be wider than a phone.
const NAMES: [&str; 3] = [
    "<img src=x onerror=alert(1)>wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww",
    "</script><script>alert(2)</script>wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww",
    "\"quoted' & <!-- --> ]]>",
];

/// Runs of all kinds.
struct Runs {
    folder: Folder,
    target: Server,
}

impl Runs {
    fn make() -> Runs {
        let answers = AtomicU64::new(0);
        let target = Server::start(move |_, received| match received.line() {
            "GET /metrics" => {
                let answered = answers.load(Ordering::Relaxed);
                let upstream = NAMES[0].replace('\\', "\\\\");
                Reply::ok(&format!(
                    "process_cpu_seconds_total {}\nprocess_resident_memory_bytes 7340032\n\
                     plimsoll_relays_total{{upstream=\"{upstream}\"}} {answered}\n",
                    answered as f64 / 1000.0
                ))
            }
            "POST /fails" => Reply::with(500, "", "no"),
            _ => {
                answers.fetch_add(1, Ordering::Relaxed);
                Reply::ok(RPC_RESULT)
            }
        });
        let runs = Runs { folder: Folder::new(), target };
        std::thread::scope(|scope| {
            scope.spawn(|| runs.run("half", &runs.half_plan()));
            scope.spawn(|| runs.run("many", &runs.many_plan()));
            scope.spawn(|| runs.run("one", &runs.plan("rate = \"20/s\"\nrequests = 1", "/")));
            scope.spawn(|| runs.killed());
        });
        runs
    }

    fn plan(&self, load: &str, path: &str) -> String {
        let (name, url) = (json!(NAMES[2]), self.target.url());
        format!(
            "{load}\n[[target]]\nname = {name}\nrequest = \"POST {url}{path}\"\nbody = '{RPC}'\n"
        )
    }

    /// Half of its requests fail, and one of its two scraped processes is not there.
    fn half_plan(&self) -> String {
        let url = self.target.url();
        let load = format!(
            "name = {}\nstages = [{{ rate = \"200/s\", for = \"1s\" }}, {{ rate = \"200/s\", for = \"1s\" }}]\nwarmup = \"1s\"",
            json!(NAMES[1])
        );
        let mut plan = self.plan(&load, "/");
        let tag = json!(NAMES[0]);
        plan += &format!(
            "[[target]]\nname = {tag}\ntags = {{ chain = {tag} }}\nrequest = \"POST {url}/fails\"\n\
             [[scrape]]\nname = {tag}\nurl = \"{url}/metrics\"\n\
             [[scrape]]\nname = \"absent\"\nurl = \"http://127.0.0.1:1/metrics\"\n"
        );
        plan
    }

    fn many_plan(&self) -> String {
        let url = self.target.url();
        let target = |number| {
            format!(
                "[[target]]\nname = \"target {number}\"\nrequest = \"POST {url}/\"\nbody = '{RPC}'\n"
            )
        };
        format!(
            "rate = \"1000/s\"\nduration = \"1s\"\n{}",
            (0..1000).map(target).collect::<String>()
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, name: &str, plan: &str) {
        let plan = self.folder.file(&format!("{name}.toml"), plan);
        let done = plimsoll(&["run", &plan, "--out", self.path(name).to_str().unwrap()]);
        assert!([0, 98, 99].contains(&done.code), "{}", done.stderr);
    }

    /// A run whose process is killed after its first seconds; its page is made afterwards.
    fn killed(&self) {
        let plan =
            self.folder.file("killed.toml", self.plan("rate = \"50/s\"\nduration = \"60s\"", "/"));
        let into = self.path("killed");
        let mut child = start(&["run", &plan, "--out", into.to_str().unwrap()]);
        let seconds = || {
            std::fs::read_to_string(into.join("snapshots.jsonl"))
                .map_or(0, |text| text.lines().count())
        };
        while seconds() < 3 {
            std::thread::yield_now();
        }
        kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        self.report(&["killed"], "killed.html");
    }

    /// Makes a page of these runs.
    fn report(&self, runs: &[&str], into: &str) -> String {
        let runs: Vec<String> =
            runs.iter().map(|name| self.path(name).to_str().unwrap().into()).collect();
        let into = self.path(into).to_str().unwrap().to_string();
        let mut args = vec!["report"];
        args.extend(runs.iter().map(String::as_str));
        args.extend(["--format", "html", "--output", &into]);
        let done = plimsoll(&args);
        assert!([0, 98, 99, 130].contains(&done.code), "{}", done.stderr);
        into
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }
}

/// The keys of the charts, after a check that each is drawn.
const DRAWN: &str = "(() => {
    const figures = [...document.querySelectorAll('figure')];
    return figures.map((figure) => {
        const canvas = figure.querySelector('canvas');
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const colours = new Set();
        for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200) colours.add(data.slice(at, at + 3).join());
        return [figure.id, colours.size];
    });
})()";

fn drawn(tab: &mut Tab<'_>) -> Vec<String> {
    let figures = tab.eval(DRAWN);
    let named = figures.as_array().unwrap().iter().map(|figure| {
        assert!(figure[1].as_u64() > Some(2), "axes and values: {figure}");
        figure[0].as_str().unwrap().strip_prefix("chart-").unwrap().to_string()
    });
    named.collect()
}

/// Opens a page, and checks that all of `charts` are drawn, and that nothing goes wrong.
fn open<'b>(browser: &'b mut Browser, page: &str, charts: &[&str]) -> Tab<'b> {
    let mut tab = Tab::new(browser, 1280, 900);
    tab.open(page);
    let own = drawn(&mut tab);
    for chart in charts {
        assert!(own.iter().any(|own| own == chart), "{chart} of {page}: {own:?}");
    }
    let canvases = tab.eval("document.querySelectorAll('canvas').length");
    assert_eq!(canvases, own.len());
    assert_eq!(tab.complaints(), [""; 0]);
    tab
}

type Check = fn(&Runs, &mut Browser);

#[test]
fn pages_in_a_browser() {
    let runs = Runs::make();
    let mut browser = Browser::start(&runs.path("chromium"));
    let checks: [(&str, Check); 14] = [
        ("charts are drawn and nothing is loaded", charts_are_drawn_and_nothing_is_loaded),
        ("labels are text", labels_are_text),
        ("unusual runs have pages", unusual_runs_have_pages),
        ("merged runs are overlaid", merged_runs_are_overlaid),
        ("long tables are filtered and sorted", long_tables_are_filtered_and_sorted),
        ("everything works by keyboard", everything_works_by_keyboard),
        ("a drag zooms all charts", a_drag_zooms_all_charts),
        ("a finding's seconds are marked", a_findings_seconds_are_marked),
        ("what started is shown, what was sent is not", what_started_is_shown),
        ("stages are numbered", stages_are_numbered),
        ("screen readers find the charts described", screen_readers_find_the_charts_described),
        ("dark, narrow and without scripts", dark_narrow_and_without_scripts),
        ("on paper", on_paper),
        ("a live page takes what is sent", a_live_page_takes_what_is_sent),
    ];
    for (name, check) in checks {
        println!("{name}");
        check(&runs, &mut browser);
    }
}

const OF_EVERY_RUN: [&str; 5] = ["rates", "latency", "heat", "distribution", "connections"];

fn charts_are_drawn_and_nothing_is_loaded(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &OF_EVERY_RUN);
    let more = ["errors", "lag", "cpu", "memory", "relays-0", "host"];
    let own = drawn(&mut tab);
    assert!(more.iter().all(|chart| own.iter().any(|own| own == chart)), "{own:?}");
    let policy = tab.text("document.querySelector('meta[http-equiv]').content");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("http"), "{policy}");
    // A policy that is intact refuses what the page does not need.
    tab.eval("fetch('http://127.0.0.1:1/').catch(() => 0)");
    assert!(tab.complaints().iter().any(|own| own.contains("Content Security Policy")));
}

fn labels_are_text(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &[]);
    for name in NAMES {
        let text = json!(name).to_string();
        assert_eq!(
            tab.eval(&format!("document.body.textContent.includes({text})")),
            true,
            "{name}"
        );
    }
    assert_eq!(tab.eval("document.querySelectorAll('img, script').length"), 3, "data, uPlot, page");
    assert_eq!(tab.text("document.querySelector('h1').textContent"), NAMES[1]);
    let legend = tab.text("document.querySelector('#chart-relays-0 .legend').textContent");
    assert!(legend.contains(NAMES[0]), "{legend}");
    // The scraped process that is not there is named, with the reason in its table.
    let note = tab.text("document.querySelector('.note').textContent");
    assert!(note.contains("absent"), "{note}");
    assert_eq!(tab.complaints(), [""; 0]);
}

fn unusual_runs_have_pages(runs: &Runs, browser: &mut Browser) {
    let short = runs.url("one/report.html");
    open(browser, &short, &OF_EVERY_RUN);
    let mut tab = open(browser, &runs.url("killed.html"), &OF_EVERY_RUN);
    let text = tab.text("document.getElementById('verdict').textContent");
    assert!(text.contains("cut_short"), "{text}");
    drop(tab);
    // Only the warm-up.
    let empty = runs.path("warm-up");
    let lines = std::fs::read_to_string(runs.path("half/snapshots.jsonl")).unwrap();
    std::fs::create_dir(&empty).unwrap();
    std::fs::copy(runs.path("half/plan.toml"), empty.join("plan.toml")).unwrap();
    let first: String = lines.split_inclusive('\n').take(2).collect();
    std::fs::write(empty.join("snapshots.jsonl"), first).unwrap();
    runs.report(&["warm-up"], "warm-up.html");
    let mut tab = open(browser, &runs.url("warm-up.html"), &["rates", "connections"]);
    assert_eq!(tab.eval("document.getElementById('chart-latency')"), Value::Null);
}

fn merged_runs_are_overlaid(runs: &Runs, browser: &mut Browser) {
    runs.report(&["half", "one"], "merged.html");
    let mut tab =
        open(browser, &runs.url("merged.html"), &["rates", "latency", "errors", "distribution"]);
    let legend = tab.eval("document.querySelectorAll('#chart-rates .legend button').length");
    assert_eq!(legend, 2);
    assert_eq!(drawn(&mut tab).len(), 4);
}

fn long_tables_are_filtered_and_sorted(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("many/report.html"), &OF_EVERY_RUN);
    let rows = "[...document.querySelectorAll('[aria-label=Targets] tbody tr')].filter((row) => !row.hidden)";
    assert_eq!(tab.eval(&format!("{rows}.length")), 1000);
    tab.eval("document.querySelector('[aria-label=\"Filter rows of Targets\"]').focus()");
    for key in ["9", "9", "7"] {
        tab.press(key);
    }
    assert_eq!(
        tab.eval(&format!("{rows}.map((row) => row.cells[0].textContent)")),
        json!(["target 997"])
    );
    let count = tab.text("document.querySelector('.filter span').textContent");
    assert_eq!(count, "1 of 1,000 rows");
    tab.eval("document.querySelector('[aria-label=\"Filter rows of Targets\"]').value = ''");
    tab.press(" ");
    let heads = "[...document.querySelectorAll('[aria-label=Targets] th button')]";
    tab.eval(&format!("{heads}.find((head) => head.textContent === 'max').focus()"));
    tab.press("Enter");
    let sorted = "document.querySelector('[aria-label=Targets] [aria-sort]')";
    assert_eq!(tab.text(&format!("{sorted}.getAttribute('aria-sort')")), "descending");
    let values = tab.eval(&format!("{rows}.map((row) => row.cells[12].textContent)"));
    let nanos = |value: &Value| -> f64 {
        let text = value.as_str().unwrap();
        let [number, unit] = [
            text.trim_end_matches(char::is_alphabetic),
            text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'),
        ];
        number.parse::<f64>().unwrap()
            * match unit {
                "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                other => panic!("{other}"),
            }
    };
    let values: Vec<f64> = values.as_array().unwrap().iter().map(nanos).collect();
    assert_eq!(values.len(), 1000);
    assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
    assert_eq!(tab.complaints(), [""; 0]);
}

fn everything_works_by_keyboard(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &[]);
    // Everything that can be focused is reached, in the page's order, and is seen to be.
    let all = tab.eval("[...document.querySelectorAll('a[href], button, input, summary, [tabindex]')].filter((one) => one.checkVisibility()).length");
    let mut seen = 0;
    loop {
        tab.press("Tab");
        let own = tab.eval("(() => { const own = document.activeElement; if (own === document.body || own.seen) return null; own.seen = true; return getComputedStyle(own).outlineStyle; })()");
        if own.is_null() {
            break;
        }
        assert_ne!(own, "none");
        seen += 1;
    }
    assert_eq!(all, seen);
    // The cursor moves through a chart, and the values are said.
    tab.eval("document.querySelector('#chart-rates .plot').focus()");
    let said =
        |tab: &mut Tab<'_>| tab.text("document.querySelector('#charts > [aria-live]').textContent");
    tab.press("ArrowRight");
    let first = said(&mut tab);
    assert!(first.contains("ok") && first.contains("/s"), "{first}");
    tab.press("ArrowRight");
    assert_ne!(said(&mut tab), first);
    tab.press("ArrowLeft");
    assert_eq!(said(&mut tab), first);
    let others = tab.text("document.querySelector('#chart-latency .at').textContent");
    assert!(first.starts_with(&others), "{first}: the charts move together, {others}");
    // Zoom, and back.
    let shown = |tab: &mut Tab<'_>| tab.text("document.querySelector('.toolbar').innerText");
    tab.press("+");
    assert!(shown(&mut tab).starts_with("Showing"), "{}", shown(&mut tab));
    tab.press("Escape");
    assert!(!shown(&mut tab).starts_with("Showing"));
    // A line is hidden and shown again.
    for pressed in ["false", "true"] {
        tab.eval("document.querySelector('#chart-rates .legend button').focus()");
        tab.press("Enter");
        let own = tab.text("document.activeElement.getAttribute('aria-pressed')");
        assert_eq!(own, pressed);
    }
    tab.eval("document.querySelector('button.span').focus()");
    tab.press("Enter");
    assert!(shown(&mut tab).contains("Marked: "));
    assert_eq!(tab.complaints(), [""; 0]);
}

fn a_drag_zooms_all_charts(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &[]);
    tab.drag("#chart-latency .u-over", 0.7, 0.95);
    let toolbar = "document.querySelector('.toolbar').innerText";
    let shown = tab.text(toolbar);
    assert!(shown.starts_with("Showing 1s–2s."), "whole rows: {shown}");
    // Sentences and legends are of the same seconds.
    let said = tab.text("document.querySelector('#chart-rates .at').textContent");
    assert_eq!(said, "1s–2s");
    let peaks = tab.text("[...document.querySelectorAll('.summary')].map((one) => one.textContent.match(/ (at|\\() ?-?[−\\d]+s[^ ,;)]*/g) ?? []).flat().join()");
    assert!(peaks.contains("1s–2s") && !peaks.contains("0s–1s"), "{peaks}");
    let title = tab.text("document.querySelector('#chart-distribution h3').textContent");
    assert_eq!(title, "Latency by percentile, whole run");
    tab.eval("document.querySelector('.toolbar button').click()");
    assert!(!tab.text(toolbar).contains("Showing"));
    assert_eq!(tab.complaints(), [""; 0]);
}

/// Whether anything is drawn in a row of pixels of a chart, so far below the top of its plot, between two
/// shares of its width.
const IS_DRAWN: &str = "((chart, below, from, to) => {
    const canvas = document.querySelector(`#chart-${chart} canvas`);
    const over = document.querySelector(`#chart-${chart} .u-over`);
    const ratio = devicePixelRatio;
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const left = (over.offsetLeft + over.clientWidth * from) * ratio;
    const {data} = copy.getImageData(left, (over.offsetTop + below) * ratio, over.clientWidth * (to - from) * ratio, 1);
    return data.some((value) => value > 0);
})";

fn a_findings_seconds_are_marked(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &["errors"]);
    // The findings of this run are in all of its seconds, and shade none.
    let shaded = format!("{IS_DRAWN}('errors', 2, 0.85, 0.95)");
    assert_eq!(tab.eval(&shaded), false);
    // One second.
    tab.eval("(() => { const own = document.querySelector('button.span'); own.dataset.from = 1; own.dataset.to = 2; own.click(); })()");
    let toolbar = tab.text("document.querySelector('.toolbar').innerText");
    assert!(toolbar.contains("Marked: 1s–2s."), "{toolbar}");
    assert_eq!(tab.eval(&shaded), true);
    assert_eq!(tab.eval(&format!("{IS_DRAWN}('errors', 2, 0.52, 0.65)")), false);
    tab.eval("document.querySelector('.toolbar button').click()");
    assert_eq!(tab.eval(&shaded), false);
    assert_eq!(tab.complaints(), [""; 0]);
}

fn what_started_is_shown(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &["rates"]);
    let legend = "Object.fromEntries([...document.querySelectorAll('#chart-rates .legend button')]\
                  .map((own) => [own.children[1].textContent, own.ariaPressed === 'true']))";
    let own = json!({ "planned": true, "started": true, "sent": false, "ok": true, "failed": true });
    assert_eq!(tab.eval(legend), own);
    let said = tab.text("document.querySelector('#chart-rates .summary').textContent");
    assert!(said.starts_with("Started 200/s, ok ") && said.contains("on average"), "{said}");
    tab.eval("[...document.querySelectorAll('#chart-rates .legend button')].find((own) => /^sent/.test(own.textContent)).click()");
    assert_eq!(tab.eval(&format!("({legend}).sent")), true);
    let latency = tab.eval("[...document.querySelectorAll('#chart-latency .legend [aria-pressed=true] span')].map((own) => own.textContent)");
    assert_eq!(latency, json!(["p50", "p99", "max", "service time p99"]));
    assert_eq!(tab.complaints(), [""; 0]);
}

fn stages_are_numbered(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &["rates"]);
    let toolbar = tab.text("document.querySelector('.toolbar').innerText");
    assert!(toolbar.contains("stages 1: 200/s for 1s; 2: 200/s for 1s."), "{toolbar}");
    // Their row above the plot has something in it where the second begins.
    assert_eq!(tab.eval(&format!("{IS_DRAWN}('rates', -12, 0.5, 0.9)")), true);
    assert_eq!(tab.eval(&format!("{IS_DRAWN}('distribution', -12, 0.5, 0.9)")), false);
    assert_eq!(tab.complaints(), [""; 0]);
}

fn screen_readers_find_the_charts_described(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &[]);
    let described = tab.eval(
        "[...document.querySelectorAll('figure')].every((figure) => figure.querySelector('figcaption h3').textContent \
         && figure.querySelector('.summary').textContent.endsWith('.') && figure.querySelector('.plot').ariaLabel)",
    );
    assert_eq!(described, true);
    let odd = tab.text("[...document.querySelectorAll('.summary')].map((one) => one.textContent).filter((text) => /undefined|NaN|Infinity|null/.test(text)).join()");
    assert_eq!(odd, "");
}

fn dark_narrow_and_without_scripts(runs: &Runs, browser: &mut Browser) {
    let page = runs.url("half/report.html");
    let mut tab = open(browser, &page, &[]);
    let look = "(() => { const canvas = document.querySelector('canvas'); const at = getComputedStyle(document.body).backgroundColor; \
                return [Number(at.match(/\\d+/)[0]) < 128, canvas.toDataURL()]; })()";
    let light = tab.eval(look);
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    tab.call("Emulation.setEmulatedMedia", dark);
    tab.wait_for("matchMedia('(prefers-color-scheme: dark)').matches");
    let dark =
        tab.eval(&format!("new Promise((done) => requestAnimationFrame(() => done({look})))"));
    assert_eq!((&light[0], &dark[0]), (&json!(false), &json!(true)));
    assert_ne!(light[1], dark[1], "the charts change too");
    // On a phone only tables scroll sideways, each in its box.
    tab.resize(360, 740);
    tab.wait_for("document.querySelector('canvas').clientWidth < 360");
    assert_eq!(tab.eval("document.documentElement.scrollWidth"), 360);
    assert_eq!(tab.complaints(), [""; 0]);
    drop(tab);
    let mut tab = Tab::new(browser, 1280, 900);
    tab.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    tab.open(&page);
    let text = tab.text("document.getElementById('charts').innerText");
    assert!(text.contains("need JavaScript"), "{text}");
    assert_eq!(tab.eval("document.querySelectorAll('figure').length"), 0);
    let seen = "[...document.querySelectorAll('table')].every((table) => table.checkVisibility())";
    assert_eq!(tab.eval(seen), true);
    assert_eq!(tab.eval("document.querySelectorAll('table').length > 8"), true);
    assert_eq!(tab.complaints(), [""; 0]);
}

fn on_paper(runs: &Runs, browser: &mut Browser) {
    let mut tab = open(browser, &runs.url("half/report.html"), &[]);
    tab.eval("addEventListener('beforeprint', () => setTimeout(() => 0)); \
              addEventListener('beforeprint', () => { globalThis.printed = { \
              open: [...document.querySelectorAll('details')].every((one) => one.open), \
              fits: [...document.querySelectorAll('canvas')].every((one) => one.clientWidth <= 700) }; })");
    let pdf = tab.call("Page.printToPDF", json!({}));
    assert!(pdf["data"].as_str().unwrap().starts_with("JVBERi"), "%PDF-");
    assert_eq!(tab.eval("globalThis.printed"), json!({ "open": true, "fits": true }));
    assert_eq!(tab.eval("document.querySelectorAll('details[open]').length"), 0, "as before");
    assert_eq!(tab.complaints(), [""; 0]);
}

/// The page as the server of a run sends it.
fn live(page: &Path) -> String {
    let text = std::fs::read_to_string(page).unwrap();
    text.replacen("<body>", "<body data-live>", 1)
        .replacen("{\"live\":false", "{\"live\":true", 1)
        .replacen("img-src data:", "connect-src 'self'; img-src data:", 1)
}

fn a_live_page_takes_what_is_sent(runs: &Runs, browser: &mut Browser) {
    let page = live(&runs.path("half/report.html"));
    let ones = |value: f64| json!([value, value]);
    let times = json!({ "p50": ones(1.0), "p90": ones(1.0), "p99": ones(1.0), "p999": ones(1.0), "max": ones(1.0) });
    let columns = json!({
        "from": 2, "t": [1.0, 2.0], "to": [2.0, 3.0], "planned": ones(200.0), "dispatched": ones(200.0),
        "sent": ones(777.0), "ok": ones(0.0), "failed": ones(777.0), "unsent": ones(0.0), "in_flight": ones(1.0),
        "connected": ones(1.0), "latency": times, "service_time": times, "heat": [[80, 7], [80, 7]],
        "errors": { "reset": ones(777.0) }, "host": {}, "processes": [],
    });
    let html =
        json!({ "verdict": "<div class=\"banner bad\"><h2>Invalid</h2><p>Too late.</p></div>" });
    let end = json!({ "report": "runs/<b>/report.html" });
    let events = format!(
        "event: rows\ndata: {columns}\n\nevent: html\ndata: {html}\n\nevent: end\ndata: {end}\n\n"
    );
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let server = Server::start(move |_, received| match received.line() {
        "GET /" => Reply::with(200, "Content-Type: text/html\r\n", &page),
        "GET /events" => {
            let _ = wait.lock().unwrap().recv();
            Reply::with(200, "Content-Type: text/event-stream\r\n", &events)
        }
        _ => Reply::with(404, "", ""),
    });
    let mut tab = Tab::new(browser, 1280, 900);
    tab.open(&format!("{}/", server.url()));
    assert!(tab.text("document.title").starts_with("Running – 2s"));
    let times = "[...document.querySelectorAll('[aria-label=Times] th button')]";
    tab.eval(&format!("{times}.find((head) => head.textContent === 'max').focus()"));
    tab.press("Enter");
    go.send(()).unwrap();
    tab.wait_for("document.getElementById('state').textContent.includes('runs/<b>/report.html')");
    tab.wait_for("document.querySelector('#chart-errors .legend').textContent.includes('reset')");
    let legend = tab.text("document.querySelector('#chart-rates .legend').textContent");
    assert!(legend.contains("777/s"), "{legend}");
    assert_eq!(tab.text("document.querySelector('#verdict h2').textContent"), "Invalid");
    let said = tab.eval(
        "[...document.querySelectorAll('#charts > [aria-live]')].map((one) => one.textContent)",
    );
    assert!(said.as_array().unwrap().contains(&json!("Invalid: Too late.")), "{said}");
    assert_eq!(tab.eval("document.body.hasAttribute('data-live')"), false);
    assert!(tab.text("document.title").starts_with("Ended – "));
    let events = format!("request: \"{}/events\"", server.url());
    assert_eq!(tab.complaints(), [events]);
}
