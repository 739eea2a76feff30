//! The usage texts, in the layout of Go's `flag` package.

use super::{COMMANDS, Command, Flag, GLOBAL, Kind};
use std::fmt::Write;

const EXAMPLES: &str = "
examples:
  echo \"GET http://localhost/\" | vegeta attack -duration=5s | tee results.bin | vegeta report
  vegeta report -type=json results.bin > metrics.json
  cat results-host*.bin | vegeta report
  vegeta plot results.bin > plot.html
  vegeta report -type='hist[0,100ms,200ms,300ms]' results.bin
";

/// The usage of one command.
pub fn usage(command: &Command) -> String {
    let mut out = format!("Usage: vegeta {} [flags]", command.name);
    if !command.arguments.is_empty() {
        write!(out, " {}", command.arguments).expect("a string");
    }
    write!(out, "\n\n{}\n\n", command.about).expect("a string");
    list(command, &mut out);
    out
}

/// The usage of all commands.
pub fn overview() -> String {
    let mut out = format!("Usage: vegeta [global flags] {}\n\nglobal flags:\n", GLOBAL.arguments);
    list(&GLOBAL, &mut out);
    for command in COMMANDS {
        write!(out, "\n{} command:\n", command.name).expect("a string");
        list(command, &mut out);
    }
    out + EXAMPLES
}

fn list(command: &Command, out: &mut String) {
    for flag in command.flags {
        let kind = match flag.kind {
            Kind::Bool => "",
            Kind::Int => " int",
            Kind::Uint => " uint",
            Kind::Text | Kind::Path => " string",
            Kind::Duration => " duration",
            _ => " value",
        };
        let help = flag.help.replace('\n', "\n    \t");
        writeln!(out, "  -{}{kind}\n    \t{help}{}", flag.name, shown_default(flag))
            .expect("a string");
    }
}

/// The default, unless it is the zero value of its kind.
fn shown_default(flag: &Flag) -> String {
    match (flag.kind, flag.default) {
        (_, "") | (Kind::Bool, "false") | (Kind::Int | Kind::Uint, "0") => String::new(),
        (Kind::Duration, "0s") => String::new(),
        (Kind::Text | Kind::Path, default) => format!(" (default {default:?})"),
        (_, default) => format!(" (default {default})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vegeta::flags::{ATTACK, REPORT};

    #[test]
    fn layout() {
        let usage = usage(&REPORT);
        assert!(usage.starts_with("Usage: vegeta report [flags] [FILE...]\n\nReports on"));
        assert!(usage.contains(
            "\n  -output string\n    \tFile to write, replaced if it exists (default \"stdout\")\n"
        ));
        let attack = super::usage(&ATTACK);
        for line in [
            "  -http2\n    \tHas no effect: requests are sent over HTTP/1.1 (default true)\n",
            "  -timeout duration\n    \tTime limit of a request, from its start [0 = 30m] (default 30s)\n",
            "[-1 = no limit] (default -1)\n",
            "until stopped]\n",
        ] {
            assert!(attack.contains(line), "{line}");
        }
        assert!(overview().contains("\nplot command:\n"));
    }
}
