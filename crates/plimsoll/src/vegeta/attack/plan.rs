//! The plan of an attack, as lines of TOML: everything that decides what is sent and when.
//!
//! Flags that vegeta has and this engine cannot honour are refused, never ignored.

use crate::vegeta::refused;
use plimsoll_compat::vegeta::Duration;
use plimsoll_compat::vegeta::flags::Flags;
use plimsoll_config::values::{quote, quote_filled, show_duration, show_rate};
use plimsoll_plan::{Template, is_redundant_header};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

/// Flags that are refused if they are given, and why.
const REFUSED: [(&str, &str); 6] = [
    ("connect-to", "write the address into the URL, and the name into a Host header of the target"),
    ("h2c", "requests are sent over HTTP/1.1; remove the flag"),
    (
        "proxy-header",
        "requests are sent directly: a proxy would be measured together with the target",
    ),
    ("resolvers", "names are resolved by the system; set its resolver in /etc/resolv.conf"),
    ("session-tickets", "each connection makes a full TLS handshake; remove the flag"),
    ("unix-socket", "let the target listen on a TCP port, such as 127.0.0.1:8080"),
];
/// Duration of an attack without one, in hours: over a year. It is shortened if it would have more requests
/// than a plan may have.
const ENDLESS_HOURS: f64 = 10_000.0;
/// Fewer than a plan may have.
const REQUESTS_MAX: f64 = 9e11;
/// The longest timeout of a plan, in seconds.
const TIMEOUT_MAX: i64 = 30 * 60;
/// The most redirects that a plan follows.
const REDIRECTS_MAX: i64 = 50;
/// Idle connections that Go keeps if the number is zero.
const IDLE_OF_ZERO: i64 = 2;

/// Lines of TOML, each with the flag that it comes from.
pub(super) type Lines = Vec<(String, String)>;

/// Refuses the flags that are given and not supported.
pub(super) fn refuse_unsupported(flags: &Flags) -> anyhow::Result<()> {
    for (name, why) in REFUSED {
        let is_off = ["h2c", "session-tickets"].contains(&name) && !flags.is_on(name);
        if flags.is_given(name) && !is_off {
            return Err(refused(format!("-{name} is not supported"), why));
        }
    }
    if flags.uint("max-workers") == u64::MAX && flags.rate("rate").hits == 0 {
        let hint = "-max-workers is then the number of users who send one request after the other";
        return Err(refused("-rate=0 requires setting -max-workers", hint));
    }
    Ok(())
}

/// Whether the attack has no end of its own.
pub(super) fn is_endless(flags: &Flags) -> bool {
    flags.duration("duration").0 == 0
}

/// The plan. `connections_max` is what this host can carry.
pub(super) fn lines(flags: &Flags, connections_max: u64, folder: &Path) -> anyhow::Result<Lines> {
    let mut lines = Lines::new();
    let mut push = |flag: &str, line: String| lines.push((format!("-{flag}"), line));
    let name = match flags.text("name") {
        name if name.is_empty() => "vegeta attack".into(),
        name => name,
    };
    push("name", format!("name = {}", quote_filled(&name)));
    add_load(flags, &mut push)?;
    add_timeout(flags, &mut push)?;
    push("header", "default_headers = \"go\"".into());
    let redirects = flags.int("redirects");
    if !(-1..=REDIRECTS_MAX).contains(&redirects) {
        let message = format!("-redirects={redirects} is not from -1 to {REDIRECTS_MAX}");
        return Err(refused(message, "-1 does not follow redirects and counts them as success"));
    }
    push("redirects", format!("redirects = {}", redirects.max(0)));
    push("http2", "protocol = \"http1\"".into());
    add_connections(flags, connections_max, &mut push)?;
    add_tls(flags, &mut push)?;
    add_target(flags, folder, &mut push)?;
    Ok(lines)
}

fn add_load(flags: &Flags, push: &mut impl FnMut(&str, String)) -> anyhow::Result<()> {
    let rate = flags.rate("rate");
    let workers = flags.uint("max-workers");
    if rate.hits < 0 || rate.per.0 <= 0 && rate.hits > 0 {
        let message = format!("-rate={}/{} is not above zero", rate.hits, rate.per);
        return Err(refused(message, "write it like 500, 500/s or 300/1m"));
    }
    let per_second = rate.hits as f64 / rate.per.seconds();
    match rate.hits {
        0 => push("max-workers", format!("users = {workers}")),
        _ => push("rate", format!("rate = {}", quote(&show_rate(per_second)))),
    }
    if rate.hits > 0 && workers < u64::MAX {
        if workers == 0 {
            let hint = "nothing would be sent; set it to at least 1";
            return Err(refused("-max-workers=0", hint));
        }
        push("max-workers", format!("max_in_flight = {}", workers.min(10_000_000)));
    }
    let duration = flags.duration("duration");
    if duration.0 < 0 {
        let message = format!("-duration={duration} is negative");
        return Err(refused(message, "0 sends until the attack is stopped"));
    }
    if is_endless(flags) {
        let hours = ENDLESS_HOURS.min(REQUESTS_MAX / f64::max(per_second, 1.0) / 3600.0);
        push("duration", format!("duration = \"{}h\"", hours.floor().max(1.0)));
    } else {
        push("duration", format!("duration = {}", span(duration)));
    }
    Ok(())
}

fn add_timeout(flags: &Flags, push: &mut impl FnMut(&str, String)) -> anyhow::Result<()> {
    let timeout = flags.duration("timeout");
    let most = Duration::from_secs(TIMEOUT_MAX);
    if timeout < Duration(0) || timeout > most {
        let message = format!("-timeout={timeout} is not from 0 to {most}");
        return Err(refused(message, format!("0 stands for the longest, {most}")));
    }
    let timeout = if timeout.0 == 0 { most } else { timeout };
    push("timeout", format!("timeout = {}", span(timeout)));
    push("timeout", "timeout_from = \"start\"".into());
    Ok(())
}

fn add_connections(
    flags: &Flags,
    most: u64,
    push: &mut impl FnMut(&str, String),
) -> anyhow::Result<()> {
    let limit = flags.int("max-connections");
    let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0);
    let (idle, is_kept) = (flags.int("connections"), flags.is_on("keepalive"));
    let max = limit.unwrap_or(most).min(flags.uint("max-workers").max(1)).min(most.max(1));
    push("max-connections", format!("connections.max = {max}"));
    if !is_kept || idle < 0 || closes(flags) {
        let flag = match (is_kept, idle < 0) {
            (false, _) => "keepalive",
            (true, true) => "connections",
            (true, false) => "header",
        };
        push(flag, "connections.reuse = false".into());
    }
    let idle = if idle == 0 { IDLE_OF_ZERO } else { idle };
    if let Ok(idle) = u64::try_from(idle)
        && idle < max
    {
        push("connections", format!("connections.idle = {idle}"));
    }
    push("keepalive", "connections.retry_stale = true".into());
    let source = flags.address("laddr");
    if !source.is_unspecified() {
        push("laddr", format!("connections.source = [\"{source}\"]"));
    }
    let ttl = match flags.duration("dns-ttl") {
        // The shortest: names in use are looked at once a second.
        ttl if ttl.0 < 0 => "1s".into(),
        ttl if ttl.0 == 0 => format!("{ENDLESS_HOURS}h"),
        ttl => show_duration(std::time::Duration::from_nanos(ttl.0.unsigned_abs())),
    };
    push("dns-ttl", format!("connections.dns_ttl = \"{ttl}\""));
    Ok(())
}

fn add_tls(flags: &Flags, push: &mut impl FnMut(&str, String)) -> anyhow::Result<()> {
    if flags.is_on("insecure") {
        push("insecure", "tls.insecure = true".into());
    }
    let (cert, key) = (flags.path("cert"), flags.path("key"));
    if cert.is_empty() && !key.is_empty() {
        return Err(refused("-key without -cert", "set -cert to the client's certificate"));
    }
    if !cert.is_empty() {
        let (flag, key) = if key.is_empty() { ("cert", &cert) } else { ("key", &key) };
        push("cert", format!("tls.cert = {}", path_of("cert", &cert)?));
        push(flag, format!("tls.key = {}", path_of(flag, key)?));
    }
    let roots: Vec<String> = flags.list("root-certs");
    match roots.iter().filter(|file| !file.is_empty()).collect::<Vec<_>>().as_slice() {
        [] => {}
        [only] => push("root-certs", format!("tls.ca = {}", quote_filled(only))),
        several => {
            let message = format!("-root-certs names {} files", several.len());
            return Err(refused(message, "put them into one: cat a.pem b.pem > all.pem"));
        }
    }
    Ok(())
}

fn add_target(
    flags: &Flags,
    folder: &Path,
    push: &mut impl FnMut(&str, String),
) -> anyhow::Result<()> {
    push("targets", "[[target]]".into());
    let targets = flags.path("targets");
    let file = match targets.to_str() {
        Some("stdin") => quote("-"),
        _ => path_of("targets", &targets)?,
    };
    push("targets", format!("file = {file}"));
    push("format", format!("format = {}", quote(&flags.text("format"))));
    push("targets", "literal = true".into());
    let folder = folder.as_os_str();
    push("targets", format!("body_folder = {}", path_of("targets", folder)?));
    let body = flags.path("body");
    if !body.is_empty() {
        push("body", format!("body_file = {}", path_of("body", &body)?));
    }
    push("header", format!("add_headers = {}", headers(flags)));
    if flags.is_on("chunked") {
        push("chunked", "transfer = \"chunked\"".into());
    }
    let statuses = match flags.int("redirects") {
        // The statuses that Go's client follows are failures then.
        0 => "[\"200-300\", \"304-306\", \"309-399\"]",
        _ => "\"200-399\"",
    };
    push("redirects", format!("expect = {{ status = {statuses}, jsonrpc = \"off\" }}"));
    Ok(())
}

/// Whether a header of all requests ends each connection after its answer.
fn closes(flags: &Flags) -> bool {
    let headers = flags.headers("header");
    headers.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
    })
}

/// The headers of every request.
fn headers(flags: &Flags) -> String {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let literal = |value: &str| quote_filled(&Template::escape(value));
    for (name, value) in flags.headers("header") {
        if is_redundant_header(&name, &value) {
            continue;
        }
        all.entry(name).or_default().push(literal(&value));
    }
    let name = flags.text("name");
    if !name.is_empty() {
        all.insert("X-Vegeta-Attack".into(), vec![literal(&name)]);
    }
    all.insert("X-Vegeta-Seq".into(), vec!["\"{{seq}}\"".into()]);
    let one = |(name, values): (String, Vec<String>)| {
        format!("{} = [{}]", quote(&name), values.join(", "))
    };
    format!("{{ {} }}", all.into_iter().map(one).collect::<Vec<_>>().join(", "))
}

fn span(span: Duration) -> String {
    quote(&show_duration(std::time::Duration::from_nanos(span.0.unsigned_abs())))
}

/// A path as a string of TOML.
fn path_of(flag: &str, path: &OsStr) -> anyhow::Result<String> {
    let text = path.to_str().ok_or_else(|| {
        let message = format!("-{flag}: the path {} is not valid UTF-8", path.display());
        refused(message, "rename the file")
    })?;
    Ok(quote_filled(text))
}
