//! Reads the settings of traces, also from the environment variables that OpenTelemetry defines.
//!
//! Two of these variables are those of our own keys: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and
//! `OTEL_EXPORTER_OTLP_TRACES_HEADERS`. The others are a layer of their own ([`environment`]) between the
//! file and our own variables, because they apply to all signals, or say in one variable what we have two
//! keys for. Source: the OpenTelemetry specification, "Environment Variable Specification" and "OTLP
//! Exporter Configuration".

use plimsoll_config::values::{quote, quote_filled, show_share};
use plimsoll_config::{Field, Place, Problems, Text, Variables, percent_decoded};

use super::entries::read_headers;
use super::keys::Lines;
use crate::model::Address;
use crate::settings::TraceEndpoint;

/// The path of OTLP over HTTP.
const PATH: &str = "/v1/traces";

/// The port of OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

const NO_GRPC: &str = "OTLP over gRPC is not supported";
const USE_HTTP: &str = "name the port of OTLP over HTTP, usually 4318: http://127.0.0.1:4318";

/// The longest name of a service, in bytes.
const SERVICE_MAX: usize = 255;

/// Reads where spans are sent; [`PATH`] is added to a URL without a path.
pub(super) fn endpoint(field: &Field<'_>) -> Option<TraceEndpoint> {
    let mut url = field.text()?.hiding_all_but_words_of_url();
    if url.unset.is_some() {
        let address = Address::parse("http://unset.invalid/v1/traces").ok()?;
        return Some(TraceEndpoint { url, address });
    }
    let mut address = match Address::parse(&url.value) {
        Ok(address) => address,
        Err(_) => {
            let hint = "write it like http://127.0.0.1:4318 or https://collector.example/v1/traces; \
                        credentials go into traces.headers";
            field.problem("\"endpoint\" is not a valid URL of http or https", hint);
            return None;
        }
    };
    if address.port == GRPC_PORT {
        field.problem(format!("port {GRPC_PORT} is for gRPC, and {NO_GRPC}"), USE_HTTP);
        return None;
    }
    if address.path == "/" {
        address.path = PATH.into();
        for text in [&mut url.value, &mut url.shown] {
            *text = format!("{}{PATH}", text.trim_end_matches('/'));
        }
    }
    Some(TraceEndpoint { url, address })
}

/// Reads the headers of exports.
pub(super) fn headers(field: &Field<'_>) -> Option<Vec<(String, Text)>> {
    let table = field.table("headers")?;
    Some(read_headers(&table, None))
}

/// Reads the name of the service.
pub(super) fn service(field: &Field<'_>) -> Option<String> {
    let text = field.text()?.value;
    if text.is_empty() || text.len() > SERVICE_MAX || text.chars().any(char::is_control) {
        let message = format!("\"service\" must be 1 to {SERVICE_MAX} printable characters");
        field.problem(message, "");
        return None;
    }
    Some(text)
}

/// `KEY=VALUE` pairs of a variable, percent-encoded, as a table; the message does not repeat values,
/// which may be secrets.
pub(super) fn pairs(value: &str) -> Result<String, String> {
    let pairs = value.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let quoted = pairs.enumerate().map(|(at, pair)| {
        let wrong = |what: &str| format!("pair {}: {what}; write NAME=VALUE,NAME=VALUE", at + 1);
        let (name, value) = pair.split_once('=').ok_or_else(|| wrong("no \"=\""))?;
        let value = percent_decoded(value.trim());
        let value = value.ok_or_else(|| wrong("\"%\" without two hexadecimal digits"))?;
        Ok(format!("{} = {}", quote(name.trim()), quote_filled(&value)))
    });
    let quoted: Vec<String> = quoted.collect::<Result<_, String>>()?;
    Ok(format!("{{ {} }}", quoted.join(", ")))
}

/// The settings by OpenTelemetry's variables, except those of our own keys.
pub(super) fn environment(variables: &Variables) -> Lines {
    let get = |name| variables.get(name).map(str::trim).filter(|value| !value.is_empty());
    let (mut lines, mut problems) = (Vec::new(), Problems::default());
    if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return (lines, problems);
    }
    let mut add = |name: &str, line: String| lines.push((name.to_string(), line));
    let own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let base = "OTEL_EXPORTER_OTLP_ENDPOINT";
    if let Some(url) = get(base).filter(|_| get(own).is_none()) {
        let url = format!("{}{PATH}", url.trim_end_matches('/'));
        add(base, format!("traces.endpoint = {}", quote(&url)));
    }
    let is_sent = get(own).or(get(base)).is_some();
    let protocols = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    let protocol = protocols.into_iter().find_map(|name| Some((name, get(name)?)));
    if let Some((name, "grpc")) = protocol.filter(|_| is_sent) {
        let hint = "write http/protobuf, and name the port of OTLP over HTTP, usually 4318";
        problems.note(Place::Named(name.into()), NO_GRPC, hint);
    }
    if let Some(given) = get("OTEL_EXPORTER_OTLP_HEADERS") {
        match pairs(given) {
            Ok(table) => add("OTEL_EXPORTER_OTLP_HEADERS", format!("traces.headers = {table}")),
            Err(message) => {
                problems.note(Place::Named("OTEL_EXPORTER_OTLP_HEADERS".into()), message, "");
            }
        }
    }
    match sampler(get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG")) {
        Ok(None) => {}
        Ok(Some((share, respects_parent))) => {
            add("OTEL_TRACES_SAMPLER", format!("traces.sample = {}", quote(&show_share(share))));
            add("OTEL_TRACES_SAMPLER", format!("traces.respect_parent = {respects_parent}"));
        }
        Err((name, message, hint)) => problems.note(Place::Named(name.into()), message, hint),
    }
    (lines, problems)
}

/// What is wrong with a variable: its name, the message, and a hint.
type Wrong = (&'static str, String, &'static str);

/// The share of traces to record, and whether a caller decides for its own.
fn sampler(name: Option<&str>, argument: Option<&str>) -> Result<Option<(f64, bool)>, Wrong> {
    let Some(name) = name else { return Ok(None) };
    let (kind, respects_parent) = match name.strip_prefix("parentbased_") {
        Some(kind) => (kind, true),
        None => (name, false),
    };
    let share = match (kind, argument) {
        ("always_on", _) | ("traceidratio", None) => 1.0,
        ("always_off", _) => 0.0,
        ("traceidratio", Some(text)) => {
            let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
            let message = || format!("\"{text}\" is not a number from 0 to 1");
            share.ok_or_else(|| ("OTEL_TRACES_SAMPLER_ARG", message(), ""))?
        }
        _ => {
            let message = format!("\"{name}\" is not a supported sampler");
            let hint = "write always_on, always_off or traceidratio, perhaps with the prefix \
                        parentbased_";
            return Err(("OTEL_TRACES_SAMPLER", message, hint));
        }
    };
    Ok(Some((share, respects_parent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Inputs};
    use crate::settings::TraceSettings;

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<TraceSettings, String> {
        let mut inputs = Inputs { file: Some("gateway.toml".into()), ..Inputs::default() };
        variables.iter().for_each(|(name, value)| inputs.variables.set(*name, *value));
        let config = Config::read_with(&inputs, Some(file)).map_err(|why| why.to_string())?;
        let printed = config.to_toml();
        assert!(!printed.contains("s3cret"), "{printed}");
        Ok(config.settings.traces)
    }

    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

    #[test]
    fn endpoints_have_a_path_and_a_precedence() {
        let check = |file: &str, variables: &[(&str, &str)], url: Option<&str>| {
            let traces = read(file, variables).unwrap();
            let found = traces.endpoint.as_ref().map(|endpoint| endpoint.url.value.as_str());
            assert_eq!(found, url, "{file} {variables:?}");
        };
        let file = "traces = { endpoint = \"http://a:4318\" }";
        check("", &[], None);
        check("traces = { sample = \"50%\" }", &[], None);
        check(file, &[], Some("http://a:4318/v1/traces"));
        check("traces.endpoint = \"https://a/otlp\"", &[], Some("https://a/otlp"));
        // The variable for all signals is a base, the one for traces is the URL itself.
        check(file, &[(ENDPOINT, "http://b:4318/")], Some("http://b:4318/v1/traces"));
        check(file, &[(ENDPOINT, "http://b/otlp")], Some("http://b/otlp/v1/traces"));
        let both = [(ENDPOINT, "http://b:4318"), (TRACES_ENDPOINT, "http://c/x")];
        check(file, &both, Some("http://c/x"));
        check("", &[(ENDPOINT, "http://b:4318"), ("OTEL_SDK_DISABLED", "true")], None);
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let file = "[traces]\nendpoint = \"http://a:4318\"\nsample = \"2%\"\nservice = \"one\"\n\
                    headers = { X-Token = \"s3cret\" }\n";
        let traces = read(file, &[]).unwrap();
        assert_eq!((traces.sample, traces.respect_parent, &*traces.service), (0.02, true, "one"));
        assert_eq!(traces.headers[0].1.value, "s3cret");
        let variables = [
            ("OTEL_SERVICE_NAME", "two"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret,x-tenant=t"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ];
        let traces = read(file, &variables).unwrap();
        assert_eq!((traces.sample, traces.respect_parent, &*traces.service), (0.25, false, "two"));
        let headers: Vec<_> =
            traces.headers.iter().map(|(name, text)| (&**name, &*text.value)).collect();
        assert_eq!(headers, [("authorization", "Bearer s3cret"), ("x-tenant", "t")]);
        let own = [
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("PLIMSOLL_TRACES_SAMPLE", "1%"),
            ("PLIMSOLL_TRACES_RESPECT_PARENT", "true"),
        ];
        let traces = read(file, &own).unwrap();
        assert_eq!((traces.sample, traces.respect_parent), (0.01, true));
    }

    #[test]
    fn bad_settings_are_refused_with_their_place() {
        let check = |file: &str, variables: &[(&str, &str)], parts: &[&str]| {
            let message = read(file, variables).unwrap_err();
            let has_all = parts.iter().all(|part| message.contains(part));
            assert!(has_all && !message.contains("s3cret"), "{message}");
        };
        let port = ["port 4317 is for gRPC", "usually 4318"];
        check("traces.endpoint = \"http://a:4317\"", &[], &["gateway.toml:1:19", port[0], port[1]]);
        check("", &[(ENDPOINT, "http://a:4317")], &["OTEL_EXPORTER_OTLP_ENDPOINT", port[0]]);
        check("", &[(TRACES_ENDPOINT, "a:4318")], &[TRACES_ENDPOINT, "not a valid URL"]);
        check("traces.endpoint = \"http://u:s3cret@a\"", &[], &["not a valid URL", "headers"]);
        check("traces = { sample = \"2\" }", &[], &["is not a share"]);
        check("traces = { sampel = \"2%\" }", &[], &["did you mean \"sample\"?"]);
        check("traces = { service = \"\" }", &[], &["1 to 255"]);
        check("traces.headers = { Content-Type = \"s3cret\" }", &[], &["set by the gateway"]);
        check("", &[("OTEL_EXPORTER_OTLP_HEADERS", "s3cret")], &["no \"=\""]);
        let grpc = [(ENDPOINT, "http://a:4318"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        check("", &grpc, &["OTEL_EXPORTER_OTLP_PROTOCOL: OTLP over gRPC is not supported"]);
        check("", &[("OTEL_TRACES_SAMPLER", "xray")], &["OTEL_TRACES_SAMPLER: \"xray\""]);
        let argument =
            [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "1.5")];
        check("", &argument, &["OTEL_TRACES_SAMPLER_ARG: \"1.5\""]);
    }

    #[test]
    fn pairs_become_a_table() {
        let check = |given: &str, table: &str| assert_eq!(pairs(given).unwrap(), table, "{given}");
        check("a=1, b = x%20y ,", r#"{ "a" = "1", "b" = "x y" }"#);
        check("authorization=Basic%20YTpi==", r#"{ "authorization" = "Basic YTpi==" }"#);
        check("a=$%7BX}", r#"{ "a" = "$${X}" }"#);
        for (wrong, said) in [("s3cret", "no \"=\""), ("a=s3cret%2", "\"%\"")] {
            let message = pairs(wrong).unwrap_err();
            assert!(message.contains(said) && !message.contains("s3cret"), "{message}");
        }
    }

    #[test]
    fn samplers_are_a_share_and_whether_parents_count() {
        let check = |name: &str, argument: Option<&str>, expected: (f64, bool)| {
            assert_eq!(sampler(Some(name), argument), Ok(Some(expected)), "{name}");
        };
        check("always_on", None, (1.0, false));
        check("always_off", Some("1"), (0.0, false));
        check("traceidratio", Some("0.25"), (0.25, false));
        check("parentbased_always_on", None, (1.0, true));
        check("parentbased_always_off", None, (0.0, true));
        check("parentbased_traceidratio", None, (1.0, true));
        check("parentbased_traceidratio", Some("0.5"), (0.5, true));
        assert_eq!(sampler(None, Some("0.5")), Ok(None));
        for (name, argument) in
            [("jaeger_remote", None), ("traceidratio", Some("2")), ("traceidratio", Some("NaN"))]
        {
            assert!(sampler(Some(name), argument).is_err(), "{name}");
        }
    }
}
