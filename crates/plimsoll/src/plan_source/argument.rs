//! What the argument of `plimsoll run` is: a plan, a URL, or a mistake.

use crate::usage_error;
use plimsoll_config::Text;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Argument {
    File(PathBuf),
    Stdin,
    /// A complete URL, and how it was given, for messages.
    Url {
        flag: &'static str,
        url: String,
    },
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Argument::File(path) => write!(f, "{}", path.display()),
            Argument::Stdin => f.write_str("stdin"),
            Argument::Url { url, .. } => f.write_str(&shown(url)),
        }
    }
}

impl Argument {
    /// The only one of the arguments and `--url`.
    pub(super) fn of(arguments: &[String], url: Option<&str>) -> anyhow::Result<Argument> {
        match (arguments, url) {
            ([], None) => Err(usage_error(
                "give a PLAN file or a URL",
                "for example: plimsoll run http://localhost:8080/ --rate 100 --duration 30s",
            )),
            ([], Some(url)) => {
                let url = as_url(url).unwrap_or_else(|| url.into());
                Ok(Argument::Url { flag: "--url", url })
            }
            ([only], None) => Argument::read(only),
            ([first, ..], Some(_)) => Err(usage_error(
                format!("\"{}\" and --url cannot be used together", shown(first)),
                "keep one of the two",
            )),
            ([first, second, ..], None) => Err(usage_error(
                format!(
                    "unexpected argument \"{}\" after \"{}\": run takes one plan or URL",
                    shown(second),
                    shown(first)
                ),
                "for several URLs, write a plan with a [[target]] for each (docs/plan.md); \
                 put a value that contains spaces in quotes",
            )),
        }
    }

    fn read(text: &str) -> anyhow::Result<Argument> {
        let path = Path::new(text);
        if text == "-" {
            return Ok(Argument::Stdin);
        }
        if path.exists() {
            return Ok(Argument::File(path.into()));
        }
        if let Some(url) = as_url(text) {
            return Ok(Argument::Url { flag: "URL", url });
        }
        refuse_scripts(path)?;
        let is_path =
            text.starts_with(['/', '.', '~']) || path.extension() == Some("toml".as_ref());
        if is_path {
            // Reading it reports why it cannot be read.
            return Ok(Argument::File(path.into()));
        }
        Err(usage_error(
            format!("\"{}\" is neither a file nor a URL", shown(text)),
            format!("write a URL as http://{}, or give the path of a plan", shown_host(text)),
        ))
    }
}

/// An argument without the secrets of a URL.
fn shown(argument: &str) -> String {
    Text::plain(argument).hiding_secrets_of_url().shown
}

/// What could follow `http://`, for a hint.
fn shown_host(text: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/?=&%".contains(c);
    if !text.is_empty() && text.contains('.') && text.chars().all(plain) {
        text
    } else {
        "HOST:PORT/PATH"
    }
}

/// The text as a complete URL, if it is one: with a scheme, or as `localhost`, an address, `HOST:PORT`
/// or `:PORT`, each optionally with a path. A bare name such as `plan` is not one.
fn as_url(text: &str) -> Option<String> {
    if text.contains("://") || text.starts_with("unix:") {
        return Some(text.into());
    }
    let (authority, _) = text.split_at(text.find(['/', '?', '#']).unwrap_or(text.len()));
    let host_port = authority.rsplit('@').next().unwrap_or(authority);
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    let is_address = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.map_or(host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()), |inner| {
            inner.parse::<Ipv6Addr>().is_ok()
        })
    };
    match host_port.rsplit_once(':') {
        Some(("", port)) if is_port(port) && authority == host_port => {
            Some(format!("http://localhost{text}"))
        }
        Some((host, port)) if is_port(port) && (is_name(host) || is_address(host)) => {
            Some(format!("http://{text}"))
        }
        _ if host_port.eq_ignore_ascii_case("localhost") || is_address(host_port) => {
            Some(format!("http://{text}"))
        }
        _ => None,
    }
}

/// Files of other load generators, by extension.
const SCRIPTS: [(&str, &str); 12] = [
    ("js", "a JavaScript file"),
    ("mjs", "a JavaScript file"),
    ("ts", "a TypeScript file"),
    ("lua", "a Lua script"),
    ("py", "a Python file"),
    ("jmx", "a JMeter test plan"),
    ("scala", "a Scala file"),
    ("java", "a Java file"),
    ("kt", "a Kotlin file"),
    ("yml", "a YAML file"),
    ("yaml", "a YAML file"),
    ("har", "an HTTP archive"),
];

const PLANS: &str = "plans are TOML files without scripting (docs/plan.md); \
                     to load one URL, no plan is needed: plimsoll run URL";

fn refuse_scripts(path: &Path) -> anyhow::Result<()> {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match SCRIPTS.iter().find(|(script, _)| extension == *script) {
        Some((_, what)) => {
            Err(usage_error(format!("{} is {what}, not a plan", path.display()), PLANS))
        }
        None => Ok(()),
    }
}

/// Refuses a script, and a target file in place of the plan that names it.
pub(super) fn refuse_other_formats(path: &Path, text: &str) -> anyhow::Result<()> {
    refuse_scripts(path)?;
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let is_request = first.split_once(' ').is_some_and(|(method, url)| {
        method.bytes().all(|b| b.is_ascii_uppercase()) && !url.trim().starts_with('=')
    });
    if is_request || first.starts_with('{') {
        return Err(usage_error(
            format!("{} is not a plan; it looks like a target file", path.display()),
            format!(
                "name it in a plan: rate = 100, duration = \"30s\" and [[target]] with file = \"{}\"",
                path.display()
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let check = |text: &str, url: &str| {
            let argument = Argument::of(&[text.to_string()], None).unwrap();
            assert_eq!(argument, Argument::Url { flag: "URL", url: url.into() }, "{text}");
        };
        check("http://localhost:8080/", "http://localhost:8080/");
        check("https://example.org", "https://example.org");
        check("ftp://example.org", "ftp://example.org"); // refused as a URL
        check("localhost", "http://localhost");
        check("localhost:8080/path?q=1", "http://localhost:8080/path?q=1");
        check("localhost/path", "http://localhost/path");
        check(":8080", "http://localhost:8080");
        check(":8080/a:b", "http://localhost:8080/a:b");
        check("10.0.0.1", "http://10.0.0.1");
        check("10.0.0.1:80/x", "http://10.0.0.1:80/x");
        check("[::1]:8080/x", "http://[::1]:8080/x");
        check("example.org:8080", "http://example.org:8080");
        check("a:b@example.org:8080/", "http://a:b@example.org:8080/");
        check("unix:/run/x.sock:/path", "unix:/run/x.sock:/path"); // refused as a URL
        let file = |text: &str| {
            let argument = Argument::of(&[text.to_string()], None).unwrap();
            assert_eq!(argument, Argument::File(text.into()), "{text}");
        };
        file("no-such-plan.toml");
        file("./no-such-plan");
        file("/no/such/plan");
        file("Cargo.toml"); // exists
        assert_eq!(Argument::of(&["-".into()], None).unwrap(), Argument::Stdin);
    }

    #[test]
    fn arguments_that_are_mistakes() {
        let check = |arguments: &[&str], url: Option<&str>, says: &str| {
            let arguments: Vec<String> = arguments.iter().map(|text| text.to_string()).collect();
            let error = Argument::of(&arguments, url).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        check(&[], None, "give a PLAN file or a URL\n  hint: for example: plimsoll run http://");
        check(&["plan"], None, "\"plan\" is neither a file nor a URL");
        check(&["plan"], None, "hint: write a URL as http://HOST:PORT/PATH, or give the path");
        check(&["example.org/x"], None, "hint: write a URL as http://example.org/x, or");
        check(
            &["a", "b"],
            None,
            "unexpected argument \"b\" after \"a\": run takes one plan or URL",
        );
        check(&["a"], Some("http://h/"), "\"a\" and --url cannot be used together");
        check(&["no-such.js"], None, "no-such.js is a JavaScript file, not a plan");
        check(&["no-such.LUA"], None, "hint: plans are TOML files without scripting");
        check(&[""], None, "\"\" is neither a file nor a URL");
        check(&[":port"], None, "\":port\" is neither a file nor a URL");
    }

    #[test]
    fn other_formats_in_place_of_a_plan() {
        let check = |name: &str, text: &str, says: &str| {
            let refused = refuse_other_formats(Path::new(name), text);
            match says {
                "" => refused.unwrap(),
                says => assert!(refused.unwrap_err().to_string().contains(says), "{name}"),
            }
        };
        check("plan.toml", "# a plan\nrate = 5\n", "");
        check("plan", "[[target]]\n", "");
        check("PLAN", "A = 1\n", "");
        check("plan.toml", "", "");
        check("script.js", "import http from 'k6/http'", "a JavaScript file, not a plan");
        check("targets.txt", "# x\n\nGET http://h/\n", "looks like a target file");
        check("targets.jsonl", "{\"method\":\"GET\"}", "[[target]] with file = \"targets.jsonl\"");
    }
}
