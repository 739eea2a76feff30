//! The flags of each command: names, kinds, defaults and help, sorted by name as Go lists them.

use super::Value;
use std::ffi::OsStr;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; without a value, `true`.
    Bool,
    /// A signed number.
    Int,
    /// An unsigned number.
    Uint,
    /// Any text.
    Text,
    /// A file; `stdin` and `stdout` are the standard streams.
    Path,
    /// A duration in Go's notation, with its unit.
    Duration,
    /// A duration for which a result is cached: 0 for ever, −1 not at all.
    Ttl,
    /// Requests per unit of time.
    Rate,
    /// A number of bytes, with an optional unit; −1 for no limit.
    Size,
    /// An IP address.
    Address,
    /// A list separated by commas.
    List,
    /// `Name: value`; may be repeated.
    Header,
    /// `host:port:host:port`; may be repeated.
    Mapping,
}

/// A flag of a command.
#[derive(Debug, PartialEq)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default, as it would be written; repeated flags have none.
    pub default: &'static str,
    /// One or more lines of help.
    pub help: &'static str,
}

impl Flag {
    /// The value of a flag that is not given.
    pub(super) fn default_value(&self) -> Value {
        match self.kind {
            Kind::List if self.default.is_empty() => Value::List(Vec::new()),
            // Repeated flags are read with `values`.
            Kind::Header | Kind::Mapping => Value::Text(String::new()),
            kind => Value::parse(kind, OsStr::new(self.default)).expect("a default is valid"),
        }
    }
}

/// A command and its flags.
#[derive(Debug, PartialEq)]
pub struct Command {
    /// Its name; empty for the flags before the command.
    pub name: &'static str,
    /// The arguments after the flags, for the usage line.
    pub arguments: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Its flags, sorted by name.
    pub flags: &'static [Flag],
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, help }
}

/// The commands, sorted by name.
pub const COMMANDS: [&Command; 4] = [&ATTACK, &ENCODE, &PLOT, &REPORT];

const OUTPUT: Flag = flag("output", Kind::Path, "stdout", "File to write, replaced if it exists");

/// The flags before the command.
pub static GLOBAL: Command = Command {
    name: "",
    arguments: "<command> [command flags]",
    about: "",
    flags: &[
        flag("cpus", Kind::Int, "0", "Worker threads of attack at most [0 = one for each CPU]"),
        flag("profile", Kind::Text, "", "Not supported: profile the process with perf"),
        flag("version", Kind::Bool, "false", "Print the version and exit"),
    ],
};

/// `vegeta attack`.
pub static ATTACK: Command = Command {
    name: "attack",
    arguments: "",
    about: "Sends requests and writes their results, by default to stdout as gob.",
    flags: &[
        flag("body", Kind::Path, "", "File with the body of targets that have none"),
        flag("cert", Kind::Path, "", "Client certificate, a PEM file"),
        flag("chunked", Kind::Bool, "false", "Send bodies with chunked transfer encoding"),
        flag(
            "connect-to",
            Kind::Mapping,
            "",
            "Not supported: write the address into the URL, and the name into a Host header",
        ),
        flag("connections", Kind::Int, "10000", "Idle connections kept open for each target host"),
        flag(
            "dns-ttl",
            Kind::Ttl,
            "0s",
            "How long a host's addresses are cached [0 = for ever, -1 = 1 s]",
        ),
        flag("duration", Kind::Duration, "0s", "How long requests are sent [0 = until stopped]"),
        flag("format", Kind::Text, "http", "Format of the targets [http, json]"),
        flag("h2c", Kind::Bool, "false", "Not supported: requests are sent over HTTP/1.1"),
        flag(
            "header",
            Kind::Header,
            "",
            "Header of every request, as \"Name: value\". May be repeated",
        ),
        flag("http2", Kind::Bool, "true", "Has no effect: requests are sent over HTTP/1.1"),
        flag("insecure", Kind::Bool, "false", "Accept invalid server certificates"),
        flag("keepalive", Kind::Bool, "true", "Send several requests over a connection"),
        flag(
            "key",
            Kind::Path,
            "",
            "Private key of the client certificate, a PEM file [empty = in -cert]",
        ),
        flag("laddr", Kind::Address, "0.0.0.0", "Local IP address to connect from"),
        flag("lazy", Kind::Bool, "false", "Read targets while sending, each once"),
        flag(
            "max-body",
            Kind::Size,
            "-1",
            "Bytes of a response body that are recorded, such as 10485760 or \"10 MB\" [-1 = no limit]",
        ),
        flag(
            "max-connections",
            Kind::Int,
            "0",
            "Connections to each target host at most [0 = no limit]",
        ),
        flag("max-workers", Kind::Uint, "18446744073709551615", "Requests in flight at most"),
        flag("name", Kind::Text, "", "Name of the attack in its results"),
        OUTPUT,
        flag(
            "print-plan",
            Kind::Bool,
            "false",
            "Print the attack as a plan for plimsoll run, and send nothing",
        ),
        flag(
            "prometheus-addr",
            Kind::Text,
            "",
            "Address to serve Prometheus metrics on, such as 0.0.0.0:8880 [empty = none]",
        ),
        flag(
            "proxy-header",
            Kind::Header,
            "",
            "Not supported: requests are sent directly, without a proxy",
        ),
        flag(
            "rate",
            Kind::Rate,
            "50/1s",
            "Requests per unit of time, such as 500 or 30/1m [0 = as fast as possible]",
        ),
        flag(
            "redirects",
            Kind::Int,
            "10",
            "Redirects to follow [-1 = none, and count them as success]",
        ),
        flag("resolvers", Kind::List, "", "Not supported: names are resolved by the system"),
        flag("root-certs", Kind::List, "", "Root certificates, a PEM file"),
        flag(
            "session-tickets",
            Kind::Bool,
            "false",
            "Not supported: each connection makes a full handshake",
        ),
        flag("targets", Kind::Path, "stdin", "File with the targets"),
        flag("timeout", Kind::Duration, "30s", "Time limit of a request, from its start [0 = 30m]"),
        flag("unix-socket", Kind::Path, "", "Not supported: let the target listen on a TCP port"),
        flag("workers", Kind::Uint, "10", "Has no effect: there is no worker for each request"),
    ],
};

/// `vegeta encode`.
pub static ENCODE: Command = Command {
    name: "encode",
    arguments: "[FILE...]",
    about: "Converts results. The encoding of each FILE (default: stdin) is detected: gob, JSON or CSV.",
    flags: &[OUTPUT, flag("to", Kind::Text, "json", "Encoding to write [csv, gob, json]")],
};

/// `vegeta plot`.
pub static PLOT: Command = Command {
    name: "plot",
    arguments: "[FILE...]",
    about: "Plots latencies over time as one HTML page. The encoding of each FILE (default: stdin) is\n\
            detected: gob, JSON or CSV.",
    flags: &[
        OUTPUT,
        flag(
            "threshold",
            Kind::Int,
            "4000",
            "Points of a series at most; more are downsampled [0 = all]",
        ),
        flag("title", Kind::Text, "Vegeta Plot", "Title of the page"),
    ],
};

/// `vegeta report`.
pub static REPORT: Command = Command {
    name: "report",
    arguments: "[FILE...]",
    about: "Reports on results. The encoding of each FILE (default: stdin) is detected: gob, JSON or CSV.",
    flags: &[
        flag(
            "buckets",
            Kind::Text,
            "",
            "Buckets of latencies for the types json and hist, such as \"[0,1ms,10ms]\"",
        ),
        flag(
            "every",
            Kind::Duration,
            "0s",
            "Interval between reports while results arrive [0 = one at the end]",
        ),
        OUTPUT,
        flag("type", Kind::Text, "text", "What to report [text, json, hist[buckets], hdrplot]"),
    ],
};
