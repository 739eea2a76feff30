//! Flags that users of other load generators try by habit: errors that name the flag of `plimsoll run`,
//! or state that there is none and why.
//!
//! Flags with one meaning everywhere are hidden aliases (`run`, `plan_source`); those in this table are
//! unsupported, or mean different things in different tools: `-t` is threads in wrk and a timeout in hey.

use crate::usage_error;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;
use std::path::Path;

/// Flags, what is said about them, and what to write instead.
type Row = (&'static [&'static str], &'static str, &'static str);

const NOT_SUPPORTED: &str = "is not supported";
const AMBIGUOUS: &str = "has different meanings in other load generators";

const FLAGS: &[Row] = &[
    (
        &["-t"],
        AMBIGUOUS,
        "for a timeout use --timeout, for threads --workers, for a time limit --duration",
    ),
    (&["-T"], AMBIGUOUS, "for a content type use -H 'Content-Type: …', for a timeout --timeout"),
    (&["-r"], AMBIGUOUS, "for a rate use --rate, for redirects --redirects N"),
    (
        &["-o", "--output"],
        AMBIGUOUS,
        "for a directory of results use --out DIR, for JSON --format json",
    ),
    (&["-i"], AMBIGUOUS, "for a number of requests use -n, for HEAD requests -X HEAD"),
    (&["-f"], AMBIGUOUS, "for a body use -b @FILE; a plan is an argument: plimsoll run plan.toml"),
    (&["-p"], AMBIGUOUS, "for a body use -b @FILE and -X for the method"),
    (&["-s", "--script", "--lua"], NO_SCRIPTS, PLANS),
    (&["-D", "--body-file"], INSTEAD, "use -b @FILE"),
    (
        &["-a", "-A", "--basic-auth"],
        INSTEAD,
        "for basic auth write http://name:password@host/, for other headers -H 'NAME: VALUE'",
    ),
    (&["-e", "--env"], INSTEAD, "set a variable of a plan with --set NAME=VALUE"),
    (&["-j", "--json", "--output-format"], INSTEAD, "use --format json"),
    (
        &["-v", "--verbose", "--debug", "--http-debug"],
        INSTEAD,
        "print whole exchanges with --trace N",
    ),
    (
        &["-l", "--latency", "--latencies"],
        NOT_NEEDED,
        "the report always has the distribution of latencies",
    ),
    (
        &["--latency-correction"],
        NOT_NEEDED,
        "latency is always measured from the instant a request was due",
    ),
    (
        &["--keepalive", "--keep-alive"],
        NOT_NEEDED,
        "connections are reused by default; --no-keepalive opens one for each request",
    ),
    (&["--lazy"], NOT_NEEDED, "targets are read at the start, and sent in turn"),
    (
        &["--headless", "--no-tui", "--no-ui"],
        NOT_NEEDED,
        "there is no user interface besides the progress line",
    ),
    (
        &["-x", "--proxy"],
        NOT_SUPPORTED,
        "requests through a proxy would measure the proxy; connect to the target directly",
    ),
    (
        &["--http2", "--h2", "--h2c", "--http3", "--h3", "--http-version"],
        NOT_SUPPORTED,
        "requests are sent over HTTP/1.1",
    ),
    (&["--unix-socket"], NOT_SUPPORTED, "let the target listen on a TCP port"),
    (
        &["--disable-compression"],
        NOT_NEEDED,
        "compressed answers are requested only by -H 'Accept-Encoding: gzip'",
    ),
    (&["--compression", "--compressed"], INSTEAD, "use -H 'Accept-Encoding: gzip'"),
    (
        &["--disable-redirects", "--no-redirects"],
        NOT_NEEDED,
        "redirects are followed only with --redirects N",
    ),
    (&["--location", "-L"], INSTEAD, "use --redirects N"),
    (
        &["--threads", "--cpus"],
        AMBIGUOUS,
        "for threads of the load generator use --workers, for concurrent senders --users",
    ),
    (&["--workers-max", "--max-workers"], INSTEAD, "limit connections with -c, --connections N"),
    (
        &["--burst-rate", "--burst-delay"],
        INSTEAD,
        "describe bursts with stages in a plan (docs/plan.md)",
    ),
    (&["--stage", "--stages"], INSTEAD, "write stages in a plan (docs/plan.md)"),
    (
        &["--spawn-rate", "--ramp", "--ramp-up"],
        INSTEAD,
        "ramp users or a rate with stages in a plan (docs/plan.md)",
    ),
    (&["--scenario", "--tag", "--tags", "--name"], INSTEAD, "set it in a plan (docs/plan.md)"),
    (
        &["--targets", "--urls-from-file"],
        INSTEAD,
        "name the file in a plan: [[target]] with file = \"targets.txt\" (docs/plan.md)",
    ),
    (
        &["--host"],
        AMBIGUOUS,
        "give the URL as the argument, and a Host header with -H 'Host: NAME'",
    ),
    (
        &["--connect-to", "--resolve"],
        INSTEAD,
        "put the address into the URL, and the name into -H 'Host: NAME'",
    ),
    (&["--laddr", "--interface"], INSTEAD, "set connections.source in a plan (docs/plan.md)"),
    (&["--dns-ttl"], INSTEAD, "set connections.dns_ttl in a plan (docs/plan.md)"),
    (&["--request"], AMBIGUOUS, "for the method use -X, for a number of requests -n"),
    (&["--user-agent"], INSTEAD, "use -H 'User-Agent: NAME'"),
    (&["--content-type"], INSTEAD, "use -H 'Content-Type: TYPE'"),
    (
        &["--user"],
        AMBIGUOUS,
        "for basic auth write http://name:password@host/, for users --users N",
    ),
    (
        &["--threshold", "--thresholds"],
        INSTEAD,
        "use --objective, such as --objective 'latency.p99 < 250ms'",
    ),
    (
        &["--summary-export", "--export"],
        INSTEAD,
        "summary.json is written to --out DIR; --format json prints it",
    ),
    (&["--prometheus-addr"], INSTEAD, "use --metrics ADDR"),
    (
        &["--quiet", "--silent"],
        INSTEAD,
        "the report is on stdout, everything else on stderr: append 2>/dev/null",
    ),
];

const INSTEAD: &str = "is not a flag of plimsoll run";
const NOT_NEEDED: &str = "is not needed";
const NO_SCRIPTS: &str = "is not supported: requests are not scripted";
const PLANS: &str =
    "a plan (docs/plan.md) has placeholders, weighted targets and files of requests";

/// Names of other tools' commands that correspond to `plimsoll run`.
const RUN_ELSEWHERE: [&str; 6] = ["attack", "bench", "load", "test", "start", "hit"];

/// The error for arguments that clap refused, if it is a habit from another tool.
pub(crate) fn explain(error: &clap::Error, args: &[OsString]) -> Option<anyhow::Error> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let command = args.get(1)?.to_str()?;
    match error.kind() {
        ErrorKind::UnknownArgument if command == "run" => {
            of_flag(context(ContextKind::InvalidArg)?)
        }
        // clap's message would repeat the password.
        ErrorKind::ValueValidation
            if context(ContextKind::InvalidArg).is_some_and(|arg| arg.starts_with("--users"))
                && context(ContextKind::InvalidValue).is_some_and(|value| value.contains(':')) =>
        {
            Some(usage_error("-u, --users is a number of users", BASIC_AUTH))
        }
        ErrorKind::UnknownArgument if command.starts_with('-') => {
            Some(usage_error(format!("{command} needs a command before it"), WITHOUT_COMMAND))
        }
        ErrorKind::InvalidSubcommand => of_command(context(ContextKind::InvalidSubcommand)?),
        _ => None,
    }
}

const BASIC_AUTH: &str = "for basic auth write http://name:password@host/";
const WITHOUT_COMMAND: &str =
    "for a load test: plimsoll run http://localhost:8080/ --rate 100; see plimsoll --help";

fn of_flag(flag: &str) -> Option<anyhow::Error> {
    let (_, says, hint) = FLAGS.iter().find(|(flags, ..)| flags.contains(&flag))?;
    Some(usage_error(format!("{flag} {says}"), *hint))
}

fn of_command(command: &str) -> Option<anyhow::Error> {
    let is_source =
        command.contains(['/', ':']) || command.ends_with(".toml") || Path::new(command).is_file();
    if is_source {
        let message = format!("\"{command}\" is not a command");
        return Some(usage_error(message, format!("for a load test: plimsoll run {command}")));
    }
    RUN_ELSEWHERE.contains(&command).then(|| {
        let message = format!("\"{command}\" is not a command");
        usage_error(message, "a load test is plimsoll run; see plimsoll --help")
    })
}

/// The error for a long flag with a single dash, as Go programs accept it (`-rate=50`). Otherwise clap
/// would read `-duration=5s` as `-d` with the value `uration=5s`.
pub(crate) fn single_dash(args: &[OsString], command: &clap::Command) -> Option<anyhow::Error> {
    if args.get(1)? != "run" {
        return None;
    }
    let run = command.find_subcommand("run")?;
    let own: Vec<&str> = run
        .get_arguments()
        .flat_map(|arg| {
            arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten())
        })
        .collect();
    let elsewhere = |long: &str| {
        FLAGS
            .iter()
            .flat_map(|(flags, ..)| *flags)
            .find(|flag| flag.strip_prefix("--") == Some(long))
    };
    let before_end = args[2..].iter().filter_map(|arg| arg.to_str()).take_while(|arg| *arg != "--");
    for arg in before_end {
        let Some(text) = arg.strip_prefix('-').filter(|text| !text.starts_with('-')) else {
            continue;
        };
        let name = text.split('=').next().unwrap_or(text);
        if name.len() < 2 {
            continue;
        }
        if own.contains(&name) {
            let message = format!("-{name} needs two dashes");
            return Some(usage_error(message, format!("write --{text}")));
        }
        if let Some(flag) = elsewhere(name) {
            return of_flag(flag);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cli;
    use clap::{CommandFactory, Parser};

    /// The error for `plimsoll ARGS`, or none.
    fn error(args: &str) -> Option<String> {
        let args: Vec<OsString> =
            ["plimsoll"].into_iter().chain(args.split_whitespace()).map(OsString::from).collect();
        if let Some(error) = single_dash(&args, &Cli::command()) {
            return Some(error.to_string());
        }
        let error = Cli::try_parse_from(&args).err()?;
        Some(explain(&error, &args).map_or_else(|| error.to_string(), |known| known.to_string()))
    }

    #[test]
    fn flags_of_other_tools_have_explanations() {
        for (flags, says, hint) in FLAGS {
            assert!(!hint.ends_with('.') && !hint.is_empty());
            for flag in *flags {
                for args in [format!("run {flag} 5 URL"), format!("run URL {flag}=5")] {
                    let error = error(&args).unwrap_or_else(|| panic!("{args} is accepted"));
                    assert_eq!(error, format!("{flag} {says}\n  hint: {hint}"), "{args}");
                }
            }
        }
    }

    #[test]
    fn flags_with_one_meaning_work() {
        for flags in [
            "-c 5 -n 10k",
            "-c 5 -d 10",
            "-c 5 -z 10s",
            "-d 5s -q 100",
            "--rps 100 --duration 2",
            "--rate 50 --duration 2",
            "-R 100 -c 2 -d 2",
            "--vus 10 --duration 30s",
            "-u 10",
            "--users 10 --run-time 5s",
            "--vus 10 --iterations 100",
            "-m POST -b x",
            "-X POST --data x",
            "-k",
            "--insecure-skip-tls-verify",
            "--concurrency 5",
            "--max-connections 5",
            "--disable-keepalive",
            "--no-connection-reuse",
            "--redirect 5",
            "--max-redirects 5",
            "--cacert a.pem --cert b.pem --key c.pem",
            "--root-certs a.pem",
            "--timeout 5",
            "--chunked",
            "--out DIR",
        ] {
            for args in [format!("run {flags} URL"), format!("run URL {flags}")] {
                assert_eq!(error(&args), None, "{args}");
            }
        }
    }

    #[test]
    fn other_mistakes_have_explanations() {
        let check = |args: &str, says: &str| {
            let error = error(args).unwrap_or_else(|| panic!("{args} is accepted"));
            assert!(error.contains(says), "{args}: {error}");
        };
        check("run -rate=50 URL", "-rate needs two dashes\n  hint: write --rate=50");
        check("run -duration=5s URL", "-duration needs two dashes\n  hint: write --duration=5s");
        check("run -vus 5 URL", "-vus needs two dashes\n  hint: write --vus");
        check("run -max-workers=5 URL", "--max-workers is not a flag of plimsoll run");
        check("run -targets=t.txt", "--targets is not a flag of plimsoll run");
        check("run -u me:secret URL", "for basic auth write http://name:password@host/");
        check("run -n many URL", "write a whole number, such as 100, 10k or 1M");
        check("run -n 99999999999999999999 URL", "write a whole number");
        check("run --cert a.pem URL", "--key");
        check("run --rate 5 --users 5 URL", "cannot be used with");
        check("--url http://h/", "--url needs a command before it\n  hint: for a load test:");
        check("--rate 10/s http://h/", "--rate needs a command before it");
        check("http://h/", "\"http://h/\" is not a command\n  hint: for a load test: plimsoll run");
        check("plan.toml", "hint: for a load test: plimsoll run plan.toml");
        check("attack", "a load test is plimsoll run");
        check("frobnicate", "unrecognized subcommand");
        check("run --frobnicate", "unexpected argument '--frobnicate'");
        check("sim --http2", "unexpected argument '--http2'"); // only run is explained
        // Attached values are not mistaken for long flags.
        assert_eq!(error("run -n100 -c5 -mPOST -bbody1 URL"), None);
        assert_eq!(error("run URL -H A:b -- -rate"), None);
    }
}
