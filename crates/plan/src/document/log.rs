//! Logs that are followed during a run: `[[log]]`.
//!
//! Reading a plan opens no log and runs no command; `plimsoll run` does, on its own host only. The patterns
//! are compiled here, so that a mistake in one is a problem of the plan, with its place.

use super::Files;
use plimsoll_config::values::{quote, quote_filled};
use plimsoll_config::{Field, Table, arguments_without_secrets};
use regex::bytes::{Regex, RegexBuilder};
use std::fmt::{self, Write};
use std::path::PathBuf;

/// Bounds memory and time: one thread follows all of them.
const LOGS_MAX: usize = 16;
/// Each line is compared with each of them.
const PATTERNS_MAX: usize = 8;
/// The longest pattern, in bytes.
const PATTERN_LEN_MAX: usize = 1024;
/// Memory of a compiled pattern, and of its cache, in bytes. Repetitions such as `(\w{100}){100}` need more.
const PATTERN_SIZE_MAX: usize = 1 << 20;
/// Nested groups of a pattern.
const PATTERN_NEST_MAX: u32 = 50;
/// Arguments of a command.
const ARGUMENTS_MAX: usize = 64;

/// A log to follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Name in the report; unique in the plan.
    pub name: String,
    /// Where its lines come from.
    pub source: LogSource,
    /// Which lines are counted; at least one.
    pub patterns: Vec<Pattern>,
}

/// Where the lines of a log come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// A file.
    File(PathBuf),
    /// The output of a command: a program and its arguments.
    Command(Vec<Argument>),
}

/// An argument of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// As the command receives it.
    pub value: String,
    /// Without secrets, for display.
    pub shown: String,
}

impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogSource::File(path) => write!(f, "{}", path.display()),
            LogSource::Command(arguments) => {
                let shown: Vec<&str> = arguments.iter().map(|own| own.shown.as_str()).collect();
                f.write_str(&shown.join(" "))
            }
        }
    }
}

/// A regular expression that lines are compared with.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As it is written.
    pub text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// Where a line matches, as byte offsets; `None` if it does not.
    pub fn find(&self, line: &[u8]) -> Option<std::ops::Range<usize>> {
        self.regex.find(line).map(|found| found.range())
    }

    /// Whether it probably matches every line that is not empty: it matches several that have nothing in
    /// common.
    pub fn matches_everything(&self) -> bool {
        ["q", "7", " ", "%", "é"].iter().all(|line| self.regex.is_match(line.as_bytes()))
    }

    fn parse(text: &str) -> Result<Pattern, (String, &'static str)> {
        if text.is_empty() {
            return Err((
                "a pattern is empty, and would match every line".into(),
                "write a regular expression, such as \"error|timeout\"",
            ));
        }
        if text.len() > PATTERN_LEN_MAX {
            let message =
                format!("a pattern has {} bytes; the maximum is {PATTERN_LEN_MAX}", text.len());
            return Err((message, ""));
        }
        let compiled = RegexBuilder::new(text)
            .size_limit(PATTERN_SIZE_MAX)
            .dfa_size_limit(PATTERN_SIZE_MAX)
            .nest_limit(PATTERN_NEST_MAX)
            .build();
        match compiled {
            Ok(regex) => Ok(Pattern { text: text.into(), regex }),
            Err(regex::Error::CompiledTooBig(_)) => Err((
                format!(
                    "the pattern \"{text}\" takes more than {PATTERN_SIZE_MAX} bytes of memory"
                ),
                "use fewer or shorter repetitions",
            )),
            Err(_) => Err((syntax_problem(text), SYNTAX)),
        }
    }
}

const SYNTAX: &str = "the syntax is that of grep -E, without back-references; (?i) ignores case, \\\\ in \"…\" or \
                      \\ in '…' escapes";

/// What is wrong with the syntax of a pattern, and where.
fn syntax_problem(text: &str) -> String {
    let mut parser = regex_syntax::ParserBuilder::new();
    let parsed = parser.utf8(false).nest_limit(PATTERN_NEST_MAX).build().parse(text);
    let (why, at) = match &parsed {
        Err(regex_syntax::Error::Parse(error)) => {
            (error.kind().to_string(), error.span().start.column)
        }
        Err(regex_syntax::Error::Translate(error)) => {
            (error.kind().to_string(), error.span().start.column)
        }
        _ => return format!("\"{text}\" is not a regular expression"),
    };
    format!("\"{text}\" is not a regular expression: {why}, at its character {at}")
}

impl Log {
    /// As a table of a resolved plan.
    pub(crate) fn show(&self) -> String {
        let mut out = format!("\n[[log]]\nname = {}\n", quote_filled(&self.name));
        let line = match &self.source {
            LogSource::File(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                format!("file = {}", quote_filled(&path.display().to_string()))
            }
            LogSource::Command(arguments) => {
                let shown: Vec<String> = arguments.iter().map(|own| quote(&own.shown)).collect();
                format!("command = [{}]", shown.join(", "))
            }
        };
        let patterns: Vec<String> =
            self.patterns.iter().map(|own| quote_filled(&own.text)).collect();
        writeln!(out, "{line}\npatterns = [{}]", patterns.join(", ")).expect("writing to memory");
        out
    }
}

pub(super) fn read_logs(root: &Table<'_>, files: &Files<'_>) -> Vec<Log> {
    let Some(field) = root.field("log") else { return Vec::new() };
    let tables = field.tables("[[log]]");
    if tables.len() > LOGS_MAX {
        field.problem(format!("{} logs; the maximum is {LOGS_MAX}", tables.len()), "");
        return Vec::new();
    }
    let mut logs: Vec<Log> = Vec::with_capacity(tables.len());
    for (place, table) in tables.iter().enumerate() {
        let name = table.field("name").and_then(|f| f.open_text("the name of a log"));
        let name = name.unwrap_or_else(|| format!("log-{}", place + 1));
        if logs.iter().any(|other| other.name == name) {
            table.problem(format!("duplicate log name \"{name}\""), "");
        }
        let source = read_source(table, files);
        let patterns = match table.field("patterns") {
            Some(field) => read_patterns(&field),
            None => {
                let hint = "add patterns = [\"error|timeout\"]";
                table.problem("a log needs \"patterns\"", hint);
                Vec::new()
            }
        };
        if let Some(source) = source {
            logs.push(Log { name, source, patterns });
        }
        table.close();
    }
    logs
}

fn read_source(table: &Table<'_>, files: &Files<'_>) -> Option<LogSource> {
    match (table.field("file"), table.field("command")) {
        (Some(field), None) => {
            let path = field.open_text("the path of a log")?;
            if path.is_empty() {
                field.problem_with_value("the path is empty", "");
                return None;
            }
            Some(LogSource::File(files.folder.join(path)))
        }
        (None, Some(field)) => read_command(&field).map(LogSource::Command),
        (None, None) => {
            let hint =
                "add file = \"/var/log/nginx/error.log\", or command = [\"docker\", \"logs\", …]";
            table.problem("a log needs \"file\" or \"command\"", hint);
            None
        }
        (Some(_), Some(field)) => {
            field.problem_with_key(
                "a log has either \"file\" or \"command\"",
                "write two [[log]] tables",
            );
            None
        }
    }
}

fn read_command(field: &Field<'_>) -> Option<Vec<Argument>> {
    if field.is_text() {
        field.problem(
            "\"command\" must be a list: a program and its arguments",
            "for a shell, write command = [\"sh\", \"-c\", \"…\"]",
        );
        return None;
    }
    let items = field.list()?;
    if items.len() > ARGUMENTS_MAX {
        field.problem(format!("{} arguments; the maximum is {ARGUMENTS_MAX}", items.len()), "");
        return None;
    }
    let mut arguments: Vec<Argument> = Vec::with_capacity(items.len());
    for item in &items {
        let text = item.text()?;
        if text.value.contains('\0') {
            item.problem("an argument contains a NUL character", "");
            return None;
        }
        // The value after `--token`, too.
        let before = arguments.last().map_or(String::new(), |own| format!("{} ", own.value));
        let hidden = arguments_without_secrets(&(before.clone() + &text.shown));
        let shown = match hidden.strip_prefix(&before) {
            Some(shown) => shown.to_string(),
            None => arguments_without_secrets(&text.shown),
        };
        arguments.push(Argument { value: text.value, shown });
    }
    if arguments.first().is_none_or(|program| program.value.is_empty()) {
        field.problem(
            "\"command\" names no program",
            "for example [\"docker\", \"logs\", \"-f\", \"traefik\"]",
        );
        return None;
    }
    Some(arguments)
}

fn read_patterns(field: &Field<'_>) -> Vec<Pattern> {
    let items = field.list().unwrap_or_default();
    if items.is_empty() && field.is_list() {
        field.problem(
            "\"patterns\" is empty",
            "add a regular expression, such as \"error|timeout\"",
        );
    }
    if items.len() > PATTERNS_MAX {
        field.problem(format!("{} patterns; the maximum is {PATTERNS_MAX}", items.len()), "");
        return Vec::new();
    }
    let mut patterns: Vec<Pattern> = Vec::with_capacity(items.len());
    for item in &items {
        let Some(text) = item.open_text("a pattern") else { continue };
        match Pattern::parse(&text) {
            Ok(pattern) if patterns.contains(&pattern) => {
                item.problem(format!("duplicate pattern \"{text}\""), "");
            }
            Ok(pattern) => patterns.push(pattern),
            Err((message, hint)) => item.problem(message, hint),
        }
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;
    use plimsoll_config::{Document, Variables};
    use std::path::Path;

    const PLAN: &str = "rate = 1\nduration = \"1s\"\n[[target]]\nrequest = \"GET http://h/\"\n";

    fn read(text: &str) -> Result<Plan, String> {
        let mut variables = Variables::none();
        variables.set("NODE_TOKEN", "t0k3n-of-node");
        let document = Document::new("p", format!("{PLAN}{text}"));
        Plan::read(&document, &variables, Path::new("/plans")).map_err(|all| all.to_string())
    }

    #[test]
    fn logs_read_back_without_secrets() {
        let text = "[[log]]\nname = \"nginx\"\nfile = \"logs/error.log\"\npatterns = [\"error|timeout\", 'a\\.b$']\n\
                    [[log]]\ncommand = [\"docker\", \"logs\", \"--token\", \"${NODE_TOKEN}\", \"--password=abc\"]\n\
                    patterns = [\"(?i)goaway|enhance\"]\n";
        let plan = read(text).unwrap();
        let [file, command] = &plan.logs[..] else { panic!("two") };
        assert_eq!(file.source, LogSource::File("/plans/logs/error.log".into()));
        assert_eq!(file.patterns[0].find(b"a timeout\xff"), Some(2..9));
        assert_eq!(
            (command.name.as_str(), &command.patterns[0].find(b"GOAWAY")),
            ("log-2", &Some(0..6))
        );
        let LogSource::Command(arguments) = &command.source else { panic!("a command") };
        assert_eq!(arguments[3].value, "t0k3n-of-node");
        let shown = plan.to_toml();
        let command_line = "command = [\"docker\", \"logs\", \"--token\", \"${NODE_TOKEN}\", \"--password=[redacted]\"]";
        assert!(shown.contains(command_line), "{shown}");
        assert!(!shown.contains("t0k3n") && !plan.describe().contains("t0k3n"));
        let again = Plan::read_recorded(&Document::new("p", shown), &["http://h".into()]).unwrap();
        assert_eq!((&again.logs[0], &again.logs[1].patterns), (file, &command.patterns));
    }

    #[test]
    fn problems_of_logs() {
        let check = |lines: &str, words: &str| {
            let error = read(&format!("[[log]]\n{lines}\n")).expect_err(lines);
            assert!(error.contains(words), "{lines}: {error}");
        };
        let file = |patterns: &str| format!("file = \"a\"\npatterns = {patterns}");
        check("patterns = [\"a\"]", "a log needs \"file\" or \"command\"");
        check("file = \"a\"", "p:5:1: a log needs \"patterns\"");
        check(
            "file = \"a\"\ncommand = [\"b\"]\npatterns = [\"a\"]",
            "either \"file\" or \"command\"",
        );
        check("command = \"tail -f x\"\npatterns = [\"a\"]", "\"sh\", \"-c\"");
        check("command = []\npatterns = [\"a\"]", "names no program");
        check("file = \"\"\npatterns = [\"a\"]", "the path is empty");
        check("file = \"${NODE_TOKEN}\"\npatterns = [\"a\"]", "the secret variable NODE_TOKEN");
        check(&file("[]"), "\"patterns\" is empty");
        check(&file("[\"\"]"), "p:7:13: a pattern is empty, and would match every line");
        check(
            &file("[\"a\", \"b(c\"]"),
            "p:7:18: \"b(c\" is not a regular expression: unclosed group, at its character 2",
        );
        check(&file("['(?x', '\\p{Nope}']"), "Unicode property not found, at its character 1");
        check(&file("['(\\w{100}){100}']"), "takes more than 1048576 bytes of memory");
        check(&file("[\"a\", \"a\"]"), "duplicate pattern");
        check(&file(&format!("[\"{}\"]", "a".repeat(2000))), "has 2000 bytes; the maximum is 1024");
        check(&file(&format!("[\"{}a{}\"]", "(".repeat(60), ")".repeat(60))), "nested parentheses");
        check(&file("[\"a\"]\npattern = \"b\""), "unknown key \"pattern\" in [[log]]");
        let many = "[[log]]\nfile = \"a\"\npatterns = [\"a\"]\n".repeat(17);
        assert!(read(&many).unwrap_err().contains("17 logs; the maximum is 16"));
    }

    #[test]
    fn patterns_that_match_everything_are_noted() {
        let check = |pattern: &str, everything: bool| {
            let text = format!("[[log]]\nfile = \"a\"\npatterns = ['{pattern}']\n");
            let warnings = read(&text).unwrap().warnings();
            assert_eq!(warnings.len(), usize::from(everything), "{pattern}: {warnings:?}");
        };
        check(".*", true);
        check(".", true);
        check("error|", true);
        check("e?", true);
        check("^", true);
        check("error", false);
        check("^$", false);
        check("[a-z ]", false);
    }
}
