//! Command lines in the syntax of Go's `flag` package, with the flags of vegeta's commands.
//!
//! `-x v`, `-x=v` and `--x=v` are the same; a Boolean flag takes its value only after `=`. `--` and
//! the first argument that is not a flag end the flags: everything after them is positional. Values
//! are converted when they are read, and errors are worded as Go words them.

mod command;
mod usage;
mod value;

pub use command::{ATTACK, COMMANDS, Command, ENCODE, Flag, GLOBAL, Kind, PLOT, REPORT};
pub use usage::{overview, usage};
pub use value::{Mapping, Rate, Value};

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// A mistake in a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FlagError(pub String);

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// `-h` or `-help`: print [`usage`].
    Help,
    /// The command's flags and arguments.
    Flags(Flags),
}

/// The flags and arguments of one command. Accessors panic if the command has no such flag of that
/// kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Flags {
    command: &'static Command,
    /// In the order in which they were given.
    given: Vec<(&'static str, Value)>,
    /// The arguments after the flags.
    pub arguments: Vec<OsString>,
}

/// Parses the arguments of a command, without its name.
///
/// # Errors
/// The first mistake, in Go's words. Vegeta prints the usage after it and exits with 2.
pub fn parse(command: &'static Command, args: &[OsString]) -> Result<Parsed, FlagError> {
    let mut flags = Flags { command, given: Vec::new(), arguments: Vec::new() };
    let mut rest = args.iter();
    while let Some(arg) = rest.as_slice().first() {
        let text = arg.as_bytes();
        if text.len() < 2 || text[0] != b'-' {
            break;
        }
        rest.next();
        if text == b"--" {
            break;
        }
        let body = text[1..].strip_prefix(b"-").unwrap_or(&text[1..]);
        if body.is_empty() || body[0] == b'-' || body[0] == b'=' {
            return Err(FlagError(format!("bad flag syntax: {}", arg.display())));
        }
        let (name, value) = match body.iter().position(|byte| *byte == b'=') {
            Some(at) => (&body[..at], Some(OsStr::from_bytes(&body[at + 1..]))),
            None => (body, None),
        };
        let name = String::from_utf8_lossy(name);
        let Some(flag) = command.flags.iter().find(|flag| flag.name == name) else {
            if name == "h" || name == "help" {
                return Ok(Parsed::Help);
            }
            return Err(FlagError(format!("flag provided but not defined: -{name}")));
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => OsStr::new("true"),
            None => {
                rest.next().ok_or_else(|| FlagError(format!("flag needs an argument: -{name}")))?
            }
        };
        flags.given.push((flag.name, read(flag, value)?));
    }
    flags.arguments = rest.cloned().collect();
    Ok(Parsed::Flags(flags))
}

/// Reads a flag's value.
fn read(flag: &Flag, value: &OsStr) -> Result<Value, FlagError> {
    Value::parse(flag.kind, value).map_err(|reason| {
        let (name, value) = (flag.name, value.to_string_lossy());
        FlagError(match flag.kind {
            Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {reason}"),
            _ => format!("invalid value {value:?} for flag -{name}: {reason}"),
        })
    })
}

impl Flags {
    /// Whether the flag was given, even with its default.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| *given == name)
    }

    /// The names of the flags that were given, in order; repeated flags are repeated.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        self.given.iter().map(|(name, _)| *name)
    }

    /// The value of a flag: the last one given, or the default.
    pub fn value(&self, name: &str) -> Value {
        let given = self.given.iter().rev().find(|(given, _)| *given == name);
        given.map_or_else(|| self.flag(name).default_value(), |(_, value)| value.clone())
    }

    /// All values of a flag that may be repeated, in order; none by default.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &Value> {
        let name = self.flag(name).name;
        self.given.iter().filter(move |(given, _)| *given == name).map(|(_, value)| value)
    }

    /// A flag of [`Kind::Bool`].
    pub fn is_on(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Bool(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// A flag of [`Kind::Int`] or [`Kind::Size`] (bytes; −1: unlimited).
    pub fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// A flag of [`Kind::Uint`].
    pub fn uint(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Uint(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// A flag of [`Kind::Text`].
    pub fn text(&self, name: &str) -> String {
        match self.value(name) {
            Value::Text(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// A flag of [`Kind::Path`]; empty for none, `stdin` and `stdout` for the standard streams.
    pub fn path(&self, name: &str) -> OsString {
        match self.value(name) {
            Value::Path(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// A flag of [`Kind::Duration`] or [`Kind::Ttl`] (−1 ns: no cache).
    pub fn duration(&self, name: &str) -> super::Duration {
        match self.value(name) {
            Value::Duration(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// A flag of [`Kind::Rate`].
    pub fn rate(&self, name: &str) -> Rate {
        match self.value(name) {
            Value::Rate(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// A flag of [`Kind::List`]; the last one given replaces those before it.
    pub fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::List(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// A flag of [`Kind::Address`].
    pub fn address(&self, name: &str) -> std::net::IpAddr {
        match self.value(name) {
            Value::Address(value) => value,
            other => mistaken(name, &other),
        }
    }

    /// All headers of a flag of [`Kind::Header`], in order: name and value.
    pub fn headers(&self, name: &str) -> Vec<(String, String)> {
        let header = |value: &Value| match value {
            Value::Header(name, value) => (name.clone(), value.clone()),
            other => mistaken(name, other),
        };
        self.values(name).map(header).collect()
    }

    /// All mappings of a flag of [`Kind::Mapping`], in order.
    pub fn mappings(&self, name: &str) -> Vec<Mapping> {
        let mapping = |value: &Value| match value {
            Value::Mapping(mapping) => mapping.clone(),
            other => mistaken(name, other),
        };
        self.values(name).map(mapping).collect()
    }

    fn flag(&self, name: &str) -> &'static Flag {
        let flag = self.command.flags.iter().find(|flag| flag.name == name);
        flag.unwrap_or_else(|| panic!("{} has no flag -{name}", self.command.name))
    }
}

/// A flag was read as a kind that it is not: a mistake in the caller.
fn mistaken(name: &str, value: &Value) -> ! {
    panic!("-{name} has the value {value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vegeta::Duration;

    fn args(line: &str) -> Vec<OsString> {
        line.split('|').filter(|arg| !arg.is_empty()).map(OsString::from).collect()
    }

    fn flags(command: &'static Command, line: &str) -> Flags {
        match parse(command, &args(line)) {
            Ok(Parsed::Flags(flags)) => flags,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[track_caller]
    fn refused(line: &str, message: &str) {
        assert_eq!(parse(&ATTACK, &args(line)), Err(FlagError(message.to_string())), "{line}");
    }

    #[test]
    fn syntax() {
        for line in ["-rate=500", "-rate|500", "--rate=500", "--rate|500", "-rate|1|-rate|500/s"] {
            assert_eq!(
                flags(&ATTACK, line).rate("rate"),
                Rate { hits: 500, per: Duration::from_secs(1) }
            );
        }
        let background = "-rate=500|-duration=33m|-targets=targets.txt|-keepalive=true|-timeout=30s\
                          |-max-workers=1000|-max-body=10485760|-output=results.bin";
        let flags = flags(&ATTACK, background);
        assert_eq!(flags.duration("duration"), Duration::from_secs(33 * 60));
        assert_eq!((flags.uint("max-workers"), flags.int("max-body")), (1000, 10 << 20));
        assert_eq!((flags.path("output"), flags.path("body")), ("results.bin".into(), "".into()));
        assert!(flags.is_on("keepalive") && flags.is_given("keepalive") && !flags.is_given("h2c"));
    }

    #[test]
    fn booleans_take_their_value_only_after_an_equals_sign() {
        let given = flags(&ATTACK, "-lazy|-http2=false|-keepalive=F|true|-h2c");
        assert!(given.is_on("lazy") && !given.is_on("http2") && !given.is_on("keepalive"));
        assert!(!given.is_on("h2c"));
        assert_eq!(given.arguments, ["true", "-h2c"]);
    }

    #[test]
    fn the_first_argument_ends_the_flags() {
        assert_eq!(
            flags(&REPORT, "-type=json|a.bin|-every|1s").arguments,
            ["a.bin", "-every", "1s"]
        );
        assert_eq!(flags(&REPORT, "--|-type").arguments, ["-type"]);
        assert_eq!(flags(&REPORT, "-|-type").arguments, ["-", "-type"]);
        assert_eq!(flags(&REPORT, "-type=a=b").text("type"), "a=b");
        assert_eq!(flags(&REPORT, "-output|-type").path("output"), "-type");
    }

    #[test]
    fn repeated_flags() {
        let given = flags(&ATTACK, "-header|a: b: c|-header=X-ID:1|-root-certs=a,b|-root-certs=c");
        let header = |name: &str, value: &str| (name.to_string(), value.to_string());
        assert_eq!(given.headers("header"), [header("a", "b: c"), header("X-ID", "1")]);
        assert_eq!(given.list("root-certs"), ["c"]);
        let given = flags(&ATTACK, "-connect-to=a:80:b:81|-connect-to=a:80:c:82");
        let to = |mapping: &Mapping| (mapping.from.clone(), mapping.to.clone());
        let pairs: Vec<_> = given.mappings("connect-to").iter().map(to).collect();
        assert_eq!(pairs, [header("a:80", "b:81"), header("a:80", "c:82")]);
    }

    #[test]
    fn help_is_recognised_wherever_a_flag_may_be() {
        for line in ["-h", "--help", "-lazy|-help", "-h=false"] {
            assert_eq!(parse(&ATTACK, &args(line)), Ok(Parsed::Help), "{line}");
        }
    }

    #[test]
    fn errors_are_worded_as_in_go() {
        refused("-foo", "flag provided but not defined: -foo");
        refused("-foo=1", "flag provided but not defined: -foo");
        refused("---rate=1", "bad flag syntax: ---rate=1");
        refused("-=1", "bad flag syntax: -=1");
        refused("-rate", "flag needs an argument: -rate");
        refused("-lazy=q", "invalid boolean value \"q\" for -lazy: parse error");
        refused("-duration=5", "invalid value \"5\" for flag -duration: parse error");
        refused("-workers=-5", "invalid value \"-5\" for flag -workers: parse error");
        refused(
            "-workers=99999999999999999999",
            "invalid value \"99999999999999999999\" for flag -workers: value out of range",
        );
        refused(
            "-rate=x",
            "invalid value \"x\" for flag -rate: strconv.Atoi: parsing \"x\": invalid syntax",
        );
        refused("-rate=5/x", "invalid value \"5/x\" for flag -rate: time: invalid duration \"x\"");
        refused(
            "-max-body=1Mb",
            "invalid value \"1Mb\" for flag -max-body: strconv.UnmarshalText: parsing \"1Mb\": unit \
             with capital unit prefix and lower case unit (b) - bits, not bytes",
        );
        refused("-header=a", "invalid value \"a\" for flag -header: header 'a' has a wrong format");
        refused(
            "-connect-to=a:b:c",
            "invalid value \"a:b:c\" for flag -connect-to: invalid -connect-to \"a:b:c\", expected \
             format: src:port:dst:port",
        );
        refused("-laddr=q", "invalid value \"q\" for flag -laddr: not an IP address");
    }

    #[test]
    fn every_default_can_be_read() {
        for command in COMMANDS.into_iter().chain([&GLOBAL]) {
            let flags = flags(command, "");
            for flag in command.flags {
                flags.value(flag.name);
            }
            assert!(command.flags.is_sorted_by_key(|flag| flag.name), "{}", command.name);
        }
        assert_eq!(flags(&ATTACK, "").uint("max-workers"), u64::MAX);
    }
}
