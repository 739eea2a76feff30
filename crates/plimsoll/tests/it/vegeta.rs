//! `plimsoll vegeta report`, `plot` and `encode`, and the same commands of a program called `vegeta`;
//! with the real vegeta where Go is installed.

use crate::run::{Done, Folder, command, plimsoll};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The release whose files and reports are compared.
const VEGETA: &str = "github.com/tsenart/vegeta/v12@v12.13.0";

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat/golden").join(name);
    path.to_str().unwrap().to_string()
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

fn text_of(name: &str) -> String {
    String::from_utf8(bytes_of(name)).unwrap()
}

/// Runs `plimsoll vegeta` with these arguments.
fn vegeta(args: &[&str]) -> Done {
    plimsoll(&[&["vegeta"], args].concat())
}

/// The same with this input.
fn vegeta_reading(args: &[&str], input: &[u8]) -> Done {
    let mut child = command(&[&["vegeta"], args].concat()).stdin(Stdio::piped()).spawn().unwrap();
    // The program may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

#[track_caller]
fn assert_prints(done: &Done, name: &str) {
    assert_eq!((done.code, &done.stdout), (0, &text_of(name)), "{name}\n{}", done.stderr);
}

#[test]
fn reports_are_printed_byte_for_byte() {
    let file = golden("equal.gob");
    assert_prints(&vegeta(&["report", &file]), "equal.text");
    assert_prints(&vegeta(&["report", "-type=json", &file]), "equal.report.json");
    assert_prints(&vegeta(&["report", "--type", "hdrplot", &file]), "equal.hdrplot");
    assert_prints(&vegeta(&["report", "-type=hist[1ms,2ms,1.5s]", &file]), "equal.hist");
    let buckets = "-buckets=[0,1ms,10ms]";
    assert_prints(&vegeta(&["report", "-type", "json", buckets, &file]), "equal.buckets.json");
    let hist = vegeta(&["report", "-type=hist", "-buckets=[1ms,2ms,1.5s]", &file]);
    assert_prints(&hist, "equal.hist");
    assert_prints(&vegeta_reading(&["report"], &bytes_of("equal.csv")), "equal.text");
    assert_prints(&vegeta_reading(&["report", "stdin"], &bytes_of("equal.json")), "equal.text");
}

#[test]
fn results_are_converted_and_written_to_a_file() {
    let folder = Folder::new();
    let out = folder.file("out", "an older and longer file".repeat(1000));
    for encoding in ["gob", "json", "csv"] {
        for name in ["mixed", "one"] {
            let source = golden(&format!("{name}.source"));
            let done = vegeta(&["encode", "-to", encoding, "-output", &out, &source]);
            assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{}", done.stderr);
            let expected = bytes_of(&format!("{name}.{encoding}"));
            assert_eq!(std::fs::read(&out).unwrap(), expected, "{name} {encoding}");
        }
    }
}

#[test]
fn files_are_merged_by_time_and_concatenated_files_are_read() {
    let all = ["equal.gob", "one.csv", "mixed.json", "one.gob"].map(golden);
    let files: Vec<&str> = all.iter().map(String::as_str).collect();
    let merged = vegeta(&[&["encode", "-to", "csv"], &files[..]].concat());
    let times: Vec<i64> =
        merged.stdout.lines().filter_map(|row| row.split(',').next()?.parse().ok()).collect();
    assert_eq!(merged.code, 0, "{}", merged.stderr);
    assert!(times.len() == 51 && times[..40].is_sorted(), "{times:?}");
    let concatenated: Vec<u8> = all.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
    let report = vegeta_reading(&["report", "-type=json"], &concatenated);
    assert!(report.stdout.contains("\"requests\":51,"), "{}", report.stdout);
}

/// A report over what can be read is printed; what is wrong is said, and the exit code is 1.
#[test]
fn damaged_results_are_reported_up_to_the_damage() {
    let gob = bytes_of("equal.gob");
    let cut_gob = &gob[..gob.len() - 1];
    let foreign = bytes_of("foreign.gob");
    let mut json = bytes_of("equal.json");
    json.extend(b"{\"seq\":\"x\"}\n");
    let mut csv = bytes_of("equal.csv");
    csv.extend(b"1,2,3\n");
    let long = format!("1,200,1,0,0,{},,,0,,,\n", "x".repeat(10 << 20));
    let cases: [(&str, &[u8], &str, &str); 11] = [
        (
            "cut gob",
            cut_gob,
            " 39, ",
            "stdin: byte 3675: the file is cut short: it ends after 87 of the 88 bytes of a result; the 39 results before it are included",
        ),
        ("bad json", &json, " 40, ", "stdin:41:10: invalid type: string \"x\", expected u64"),
        ("bad csv", &csv, " 40, ", "stdin:41:6: a row of 3 columns; vegeta's CSV has 12"),
        (
            "json, not ended",
            b"{\"seq\":1}\n{\"seq\":2}\n{\"se",
            " 2, ",
            "stdin:3:1: the file is cut short",
        ),
        ("a long field", long.as_bytes(), " 1, ", ""),
        ("empty", b"", "", "stdin holds no results\n  hint: pipe results into this command"),
        ("only line breaks", b"\n\r\n", "", "stdin holds no results"),
        ("text", b"hello\n", "", "expected results of vegeta in gob, JSON or CSV"),
        ("foreign gob", &foreign, "", "gob: a value of another Go type than vegeta's Result"),
        (
            "another type's id",
            b"\x04\xff\x90\x00\x00",
            "",
            "stdin: byte 3: gob: a type that is not defined",
        ),
        (
            "a length of 2^62",
            b"\xf8\x40\x00\x00\x00\x00\x00\x00\x00",
            "",
            "a result of more than 134217728 bytes",
        ),
    ];
    for (name, input, requests, says) in cases {
        let done = vegeta_reading(&["report"], input);
        let code = if says.is_empty() { 0 } else { 1 };
        assert_eq!(done.code, code, "{name}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{name}: {}", done.stderr);
        let first = done.stdout.lines().next().unwrap_or_default();
        assert!(
            first.contains(requests) && first.is_empty() == requests.is_empty(),
            "{name}: {first}"
        );
        // What was read is also converted and plotted.
        let encoded = vegeta_reading(&["encode"], input);
        assert_eq!(
            (encoded.code, encoded.stdout.is_empty()),
            (code, requests.is_empty()),
            "{name}"
        );
    }
    let folder = Folder::new();
    let empty = folder.file("empty.bin", "");
    let done = vegeta(&["report", &golden("equal.gob"), &empty]);
    assert_eq!((done.code, &done.stdout), (1, &text_of("equal.text")));
    assert!(done.stderr.contains("empty.bin holds no results"), "{}", done.stderr);
}

#[test]
fn mistakes_are_explained_with_vegetas_exit_codes() {
    let folder = Folder::new();
    let copy = folder.file("a.bin", bytes_of("one.gob"));
    let one = golden("one.gob");
    let missing = folder.path().join("none/out");
    let cases: [(&[&str], i32, &str); 15] = [
        (&[], 1, "Usage: vegeta [global flags] <command>"),
        (&["foo"], 1, "unknown command: foo"),
        (&["dump"], 1, "use vegeta encode"),
        (&["-profile=cpu", "report"], 1, "-profile is not supported"),
        (&["report", "-foo"], 2, "flag provided but not defined: -foo\nUsage: vegeta report"),
        (&["report", "-every", "5"], 2, "invalid value \"5\" for flag -every: parse error"),
        (&["report", "-type=plot", &one], 1, "use vegeta plot"),
        (&["report", "-type=hist", &one], 1, "bad buckets"),
        (&["report", "-type=json", "-buckets=[1]", &one], 1, "missing unit in duration \"1\""),
        (&["report", "nothing.bin"], 1, "cannot open nothing.bin: No such file"),
        (&["report", "/"], 1, "/: Is a directory"),
        (&["encode", "-to", "xml", &one], 1, "unknown encoding \"xml\""),
        (&["encode", "-output", &copy, &one, &copy], 1, "would destroy the results"),
        (&["plot", "-threshold=2", &one], 1, "use at least 3, or 0"),
        (&["report", "-output", missing.to_str().unwrap(), &one], 1, "cannot create"),
    ];
    for (args, code, says) in cases {
        let done = vegeta(args);
        assert_eq!((done.code, done.stdout.as_str()), (code, ""), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{args:?}: {}", done.stderr);
    }
    assert_eq!(std::fs::read(&copy).unwrap(), bytes_of("one.gob"), "the input is untouched");
    for args in [["-h"].as_slice(), &["report", "-help"], &["-version"]] {
        let done = vegeta(args);
        assert!(done.code == 0 && done.stderr.is_empty() && !done.stdout.is_empty(), "{args:?}");
    }
    assert!(plimsoll(&["--help"]).stdout.contains("vegeta"));
}

#[test]
fn notes_about_results_that_were_never_answered_or_sent() {
    let rows = "{\"code\":200}\n{\"error\":\"timeout\"}\n{\"error\":\"no targets to attack\"}\n";
    let done = vegeta_reading(&["report"], rows.as_bytes());
    assert!(done.stderr.contains("note: 1 of 3 requests got no response"), "{}", done.stderr);
    assert!(done.stderr.contains("note: 1 result with the error \"no targets"), "{}", done.stderr);
    assert_eq!(vegeta_reading(&["report", "-type=json"], rows.as_bytes()).stderr, "");
    let escape = vegeta_reading(&["report"], b"{\"error\":\"\\u001b[2Jx\"}\n");
    assert!(escape.stdout.ends_with("Error Set:\n\\u{1b}[2Jx\n"), "{}", escape.stdout);
}

/// Each result that arrives is passed on at once, and reports at an interval clear the screen.
#[test]
fn results_are_read_as_they_arrive() {
    let row = bytes_of("one.json");
    let mut child = command(&["vegeta", "encode"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut echoed = vec![0; row.len()];
    for _ in 0..3 {
        input.write_all(&row).unwrap();
        output.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, row);
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    let every = vegeta_reading(&["report", "-every=1ns"], &row);
    let report = text_of("one.text");
    assert_eq!(every.stdout, format!("\u{1b}[2J\u{1b}[0;0H{report}{report}"));
    let folder = Folder::new();
    let out = folder.path().join("out");
    vegeta(&["report", "-every=1ns", "-output", out.to_str().unwrap(), &golden("one.gob")]);
    assert_eq!(std::fs::read_to_string(out).unwrap(), format!("{report}{report}"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    for args in [["encode"].as_slice(), &["report", "-every=1ns"], &["plot"]] {
        let file = golden("equal.gob");
        let mut child = command(&[&["vegeta"], args, &[&file]].concat()).spawn().unwrap();
        drop(child.stdout.take());
        let done = Done::from(child.wait_with_output().unwrap());
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn a_plot_is_one_file_with_all_results() {
    let done = vegeta(&["plot", "-title", "a & b", &golden("equal.gob"), &golden("mixed.gob")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for words in
        ["<title>a &amp; b</title>", "\"steady: OK\"", "\"count\":40,", "\"a: ERROR\"", "MIT"]
    {
        assert!(done.stdout.contains(words), "{words}");
    }
    assert!(!done.stdout.contains("src=\"") && !done.stdout.contains("href="), "no other file");
}

#[test]
fn a_program_called_vegeta_needs_no_subcommand() {
    let folder = Folder::new();
    let link = folder.path().join("vegeta");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_plimsoll"), &link).unwrap();
    let output = Command::new(link).args(["report", &golden("equal.gob")]).output().unwrap();
    assert_prints(&output.into(), "equal.text");
}

/// The real vegeta, built from the module proxy; `None` where Go is not installed or cannot fetch it.
pub(crate) fn real_vegeta() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vegeta-12.13.0");
    let program = folder.join("vegeta");
    if !program.exists() {
        let go = Command::new("go").args(["install", VEGETA]).env("GOBIN", &folder).output();
        if !go.is_ok_and(|output| output.status.success()) {
            return None;
        }
    }
    Some(program)
}

#[test]
fn the_real_vegeta_reads_ours_and_ours_reads_the_real_one() {
    let Some(real) = real_vegeta() else {
        eprintln!("skipped: Go is not installed, or {VEGETA} cannot be fetched");
        return;
    };
    let theirs = |args: &[&str]| -> Done {
        Command::new(&real).args(args).env("TZ", "UTC").output().unwrap().into()
    };
    let folder = Folder::new();
    let (one, other) = (folder.file("one", ""), folder.file("other", ""));
    for name in ["mixed", "equal", "one"] {
        for encoding in ["gob", "json", "csv"] {
            let source = golden(&format!("{name}.source"));
            assert_eq!(vegeta(&["encode", "-to", encoding, "-output", &one, &source]).code, 0);
            let read = theirs(&["encode", &one]);
            assert_eq!(read.code, 0, "{name} {encoding}: {}", read.stderr);
            // A CSV file names no zone and no missing body.
            let expected = match encoding {
                "json" => format!("{name}.json"),
                _ => format!("{name}.from-{encoding}.json"),
            };
            assert_eq!(read.stdout, text_of(&expected), "{name} {encoding}");
            assert_eq!(theirs(&["encode", "-to", encoding, "-output", &other, &source]).code, 0);
            assert_prints(&vegeta(&["encode", &other]), &expected);
        }
    }
    assert_eq!(theirs(&["report", &golden("equal.gob")]).stdout, text_of("equal.text"));
}

/// The first Ctrl-C leaves the writer of a pipe time for its last results; the second ends reading,
/// although the pipe stays open.
#[test]
fn ctrl_c_reports_what_was_read() {
    let interrupt = |child: &std::process::Child| {
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    };
    let row = bytes_of("one.json");
    let start = |args: &[&str]| command(args).stdin(Stdio::piped()).spawn().unwrap();
    // That a result is echoed shows that the program handles signals.
    let mut child = start(&["vegeta", "encode", "-to", "json"]);
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut pass_on = |output: &mut dyn Read| {
        input.write_all(&row).unwrap();
        let mut echoed = vec![0; row.len()];
        output.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, row);
    };
    pass_on(&mut output);
    interrupt(&child);
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waiting for the last results") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut stderr, &mut line).unwrap() > 0);
    }
    pass_on(&mut output);
    interrupt(&child);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(
        (rest.as_str(), child.wait().unwrap().code()),
        ("interrupted after 2 results\n", Some(0))
    );
}
