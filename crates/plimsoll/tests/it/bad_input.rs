//! Invalid input: a clear message, a hint, and exit code 2.

use crate::run::{Folder, plimsoll};

/// Runs a plan that must be refused with a message that contains `words`.
#[track_caller]
fn refused(plan: &str, words: &[&str]) {
    let folder = Folder::new();
    let path = folder.file("plan.toml", plan);
    let done = plimsoll(&["run", &path, "--no-out"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert_eq!(done.stdout, "", "stdout is for data only");
    for word in words {
        assert!(done.stderr.contains(word), "\n{}\ndoes not contain\n{word}", done.stderr);
    }
}

/// Like [`refused`], for lines that are added to a valid plan.
#[track_caller]
fn refused_flat(lines: &str, words: &[&str]) {
    refused(&format!("{lines}\n[[target]]\nrequest = \"GET http://127.0.0.1:1/\"\n"), words);
}

#[test]
fn plans() {
    refused_flat(
        "ratee = \"1/s\"\nduration = \"1s\"",
        &["plan.toml:1:1: unknown key \"ratee\"", "hint: did you mean \"rate\"?"],
    );
    refused_flat(
        "rate = true\nduration = \"1s\"",
        &[
            "plan.toml:1:8: \"rate\" must be a number per second, or a string such as",
            "not a boolean",
        ],
    );
    refused_flat(
        "rate = \"0/s\"\nduration = \"1s\"",
        &["plan.toml:1:8: \"rate\" must be above 0/s"],
    );
    refused_flat("rate = \"1/s\"\nduration = \"-1s\"", &["plan.toml:2:12:", "cannot be negative"]);
    refused_flat(
        "rate = \"1/s\"\nusers = 1\nduration = \"1s\"",
        &[
            "plan.toml:2:1: \"rate\" and \"users\" cannot be used together",
            "hint: rate is the open model",
        ],
    );
    refused_flat(
        "rate = \"1/s\"\nduration = \"1s\"\n[[objective]]\nthat = \"latensy.p99 < 1s\"",
        &["plan.toml:4:8: unknown metric \"latensy.p99\""],
    );
    let target = "rate = \"1/s\"\nduration = \"1s\"\n[[target]]\n";
    refused(
        &format!("{target}request = \"GET http://h/\"\nweight = 0"),
        &["every target has weight 0"],
    );
    refused(
        &format!("{target}request = \"GET http://${{NO_SUCH_VAR}}/\""),
        &["plan.toml:4:11: the variable NO_SUCH_VAR is not set", "--set NO_SUCH_VAR=VALUE"],
    );
    refused(
        &format!("{target}request = \"POST http://h/\"\nbody_file = \"missing.json\""),
        &["plan.toml:5:13: cannot read", "missing.json"],
    );
    refused(
        &format!("{target}request = \"GET htp//h\""),
        &["plan.toml:4:11: \"htp//h\" is not a valid URL"],
    );
    refused("rate = \"1/s\nduration = ", &["plan.toml:1:"]);
}

#[test]
fn hosts_and_addresses() {
    let target = |url: &str| {
        format!("rate = \"1/s\"\nduration = \"1s\"\n[[target]]\nrequest = \"GET {url}\"\n")
    };
    refused(
        &target("http://no-such-host.invalid/"),
        &["cannot resolve host \"no-such-host.invalid\"", "hint: check the name"],
    );
    let plan =
        format!("connections = {{ source = [\"192.0.2.1\"] }}\n{}", target("http://127.0.0.1:1/"));
    refused(
        &plan,
        &["source address 192.0.2.1 is not assigned to this host", "hint: add it (ip address add"],
    );
}

#[test]
fn files_and_folders() {
    let missing = plimsoll(&["run", "/no/such/plan.toml"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("cannot read /no/such/plan.toml"), "{}", missing.stderr);

    let folder = Folder::new();
    let here = folder.path().to_str().unwrap();
    let taken = plimsoll(&["run", "--url", "http://127.0.0.1:1/", "-n", "1", "--out", here]);
    assert_eq!(taken.code, 2);
    assert!(taken.stderr.contains("results are never overwritten"), "{}", taken.stderr);

    let file = folder.file("file", "");
    let below = format!("{file}/out");
    let unwritable = plimsoll(&["run", "--url", "http://127.0.0.1:1/", "-n", "1", "--out", &below]);
    assert_eq!(unwritable.code, 2);
    assert!(unwritable.stderr.contains("cannot create the run directory"), "{}", unwritable.stderr);
    assert!(unwritable.stderr.contains("hint: choose a writable directory"));

    // A run that cannot start leaves nothing behind.
    let out = format!("{here}/out");
    let lost =
        plimsoll(&["run", "--url", "http://no-such-host.invalid/", "-n", "1", "--out", &out]);
    assert_eq!(lost.code, 2);
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn flags() {
    let check = |args: &[&str], words: &str| {
        let done = plimsoll(args);
        assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(words), "{args:?}: {}", done.stderr);
    };
    let url = "http://127.0.0.1:1/";
    check(&["run"], "give a PLAN file or a URL");
    check(&["run", "--url", url, "-X", "GE T"], "--method \"GE T\" is not a valid HTTP method");
    check(&["run", "--url", url, "--rate", "fast"], "--rate: \"fast\" is not a rate");
    check(&["run", "--url", url, "--rate", "1/s", "--users", "1"], "cannot be used with");
    check(&["run", "--url", "nonsense", "-n", "1"], "--url: \"nonsense\" is not a valid URL");
    check(&["run", "ftp://h/", "-n", "1"], "URL: unsupported scheme \"ftp\"");
    check(&["run", "unix:/run/x.sock", "-n", "1"], "URL: Unix sockets are not supported");
    check(&["run", url, "--rate", "0"], "hint: for as many requests as possible, use --users N");
    check(&["run", url, "-d", "{\"a\":1}"], "give a request body with -b or --body");
    check(&["run", url, "-d", "soon"], "--duration: \"soon\" is not a duration");
    check(
        &["run", url, "--cert", "/no/cert.pem", "--key", "/no/key.pem"],
        "--cert: file not found",
    );
    check(&["run", url, url], "run takes one plan or URL");
    check(&["run", "-"], "the plan is not valid");
    check(
        &["run", "--url", url, "-H", "nonsense"],
        "--header \"nonsense\" is not in the form \"NAME: VALUE\"",
    );
    check(&["run", "--url", url, "--objective", "p99 < 1"], "--objective: ");
    check(&["run", "--url", url, "--set", "X"], "--set X is not in the form NAME=VALUE");
    check(&["run", "--url", url, "--set", "X=1"], "--set X: the plan does not use ${X}");
    check(&["run", "--url", url, "--metrics", "nowhere"], "cannot serve metrics on nowhere");
    check(&["runn"], "unrecognized subcommand 'runn'");
}

#[test]
fn flags_with_a_plan_file_are_rejected() {
    let folder = Folder::new();
    let plan = folder.file(
        "plan.toml",
        "rate = \"${RATE:-1/s}\"\nrequests = 1\n[[target]]\nrequest = \"GET http://127.0.0.1:1/\"\n",
    );
    let check = |flags: &[&str], words: &str| {
        let done = plimsoll(&[&["run", &plan, "--no-out"], flags].concat());
        assert_eq!(done.code, 2, "{flags:?}: {}", done.stderr);
        assert!(done.stderr.contains(words), "{flags:?}: {}", done.stderr);
    };
    for (flags, key) in [
        (["--rate", "1/s"], "rate"),
        (["-d", "1s"], "duration"),
        (["-c", "1"], "connections.max"),
        (["-H", "A: b"], "headers of a [[target]]"),
        (["--redirects", "1"], "redirects"),
    ] {
        check(&flags, "cannot be used with a plan file\n");
        check(&flags, &format!("hint: set {key} in {plan}, or give a URL instead of"));
    }
    check(&["--no-keepalive"], "hint: set connections.reuse = false in");
    check(&["--objective", "success > 1% where chain=eth"], "--objective: no target has all of");
    check(&["--set", "RTAE=2/s"], "--set RTAE: the plan does not use ${RTAE}\n");
    check(&["--set", "RTAE=2/s"], "hint: did you mean RATE?");
    check(&["--set", "OTHER=1"], "hint: the plan uses RATE");
}

/// Opening a pipe without a writer would wait forever, and /dev/zero has no end.
#[test]
fn only_regular_files_are_read() {
    let folder = Folder::new();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (pipe, here) = (pipe.to_str().unwrap(), folder.path().to_str().unwrap());
    let target = "rate = 1\nrequests = 1\n[[target]]\n";
    for (file, what) in [(pipe, "a pipe"), (here, "a directory"), ("/dev/zero", "a device")] {
        let says = format!("cannot read {file}: it is {what}, not a regular file");
        let check = |args: &[&str]| {
            let done = plimsoll(args);
            assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
            assert!(done.stderr.contains(&says), "{args:?}: {}", done.stderr);
        };
        check(&["run", file]);
        check(&["check", file]);
        check(&["run", "http://127.0.0.1:1/", "--body", &format!("@{file}")]);
        refused(&format!("{target}file = \"{file}\""), &["plan.toml:4:8:", &says]);
        refused(
            &format!("{target}request = \"PUT http://h/\"\nbody_file = \"{file}\""),
            &["plan.toml:5:13:", &says],
        );
        folder.file("targets.txt", format!("PUT http://h/\n@{file}\n"));
        let targets = format!("{target}file = \"{here}/targets.txt\"");
        refused(&targets, &["targets.txt:2:2:", &says]);
    }
}

#[test]
fn write_errors_on_stdout_are_reported() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let done = crate::run::command(&["man"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(stderr.contains("cannot write to stdout: No space left"), "{stderr}");
}

#[test]
fn messages_do_not_repeat_escape_sequences() {
    let folder = Folder::new();
    folder.file("t.txt", "\u{1b}[31mGET x\n");
    let plan =
        "rate = \"1/s\"\nduration = \"1s\"\n\"k\\u001b[31m\" = 1\n[[target]]\nfile = \"t.txt\"\n";
    let plan = folder.file("plan.toml", plan);
    let done = plimsoll(&["check", &plan]);
    assert_eq!(done.code, 2);
    assert!(!done.stderr.contains('\u{1b}'), "{}", done.stderr);
    assert!(done.stderr.contains("\\u{1b}[31m"), "{}", done.stderr);
}
