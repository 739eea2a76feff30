//! Which targets an agent may be asked to send to.
//!
//! An agent sends load for whoever can give it orders, so its operator names the targets: a host with any port, or
//! with one. What is compared are the names in the plan, after variables were filled in, without resolving them:
//! the operator decides about names, and DNS is part of the operator's network. Addresses are compared as
//! addresses.

use plimsoll_plan::Plan;
use std::net::IpAddr;

use crate::message::Problem;

/// The targets of an agent's plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    host: String,
    port: Option<u16>,
}

/// Why an `--allow` cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not HOST or HOST:PORT")]
pub struct AllowError(String);

impl Allowed {
    /// Reads targets: `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an IPv6 address.
    ///
    /// # Errors
    /// The first that is none of these.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Allowed, AllowError> {
        let rules: Result<Vec<Rule>, AllowError> = texts.into_iter().map(parse_rule).collect();
        rules.map(|rules| Allowed { rules })
    }

    /// Whether requests to this host and port are allowed.
    pub fn allows(&self, host: &str, port: u16) -> bool {
        let host = canonical(host);
        self.rules.iter().any(|rule| rule.host == host && rule.port.is_none_or(|own| own == port))
    }

    /// What in a plan is not allowed: targets, and redirects to unknown targets. Files of this host are refused when
    /// the plan is read ([`Plan::read_sent`]).
    pub fn problems(&self, plan: &Plan) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut seen = Vec::new();
        for origin in plan.origins() {
            let place = (origin.host.clone(), origin.port);
            if self.allows(&origin.host, origin.port) || seen.contains(&place) {
                continue;
            }
            let shown = format!("{}:{}", origin.host, origin.port);
            problems.push(Problem {
                message: format!("target {shown} is not allowed"),
                hint: format!("the agent's operator decides: plimsoll agent --allow {shown}"),
            });
            seen.push(place);
        }
        if plan.redirects > 0 {
            problems.push(Problem {
                message:
                    "the plan follows redirects, which may lead to targets that are not allowed"
                        .into(),
                hint: "set redirects = 0".into(),
            });
        }
        problems
    }

    /// The targets as they were given.
    pub fn shown(&self) -> Vec<String> {
        let one = |rule: &Rule| match rule.port {
            Some(port) if rule.host.contains(':') => format!("[{}]:{port}", rule.host),
            Some(port) => format!("{}:{port}", rule.host),
            None => rule.host.clone(),
        };
        self.rules.iter().map(one).collect()
    }
}

fn parse_rule(text: &str) -> Result<Rule, AllowError> {
    let error = || AllowError(text.into());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(error)?;
            (host, after.strip_prefix(':').or(after.is_empty().then_some("")).ok_or_else(error)?)
        }
        None if text.parse::<IpAddr>().is_ok() => (text, ""),
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if host.is_empty() || !host.chars().all(valid) || (text.ends_with(':') && !host.contains(':')) {
        return Err(error());
    }
    let port = if port.is_empty() { None } else { Some(port.parse().map_err(|_| error())?) };
    Ok(Rule { host: canonical(host), port })
}

/// A host as it is compared.
fn canonical(host: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => bare.trim_end_matches('.').to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_plan::{Document, Variables};

    #[test]
    fn hosts_and_ports_are_compared() {
        let check = |rule: &str, host: &str, port: u16, allows: bool| {
            let allowed = Allowed::parse([rule]).unwrap();
            assert_eq!(allowed.allows(host, port), allows, "{rule}: {host} {port}");
            assert_eq!(
                Allowed::parse(allowed.shown().iter().map(String::as_str)).unwrap(),
                allowed
            );
        };
        check("gw", "gw", 80, true);
        check("gw", "GW.", 443, true);
        check("gw:80", "gw", 80, true);
        check("gw:80", "gw", 81, false);
        check("gw", "gw.example", 80, false);
        check("example", "gw.example", 80, false);
        check("::1", "[0:0:0:0:0:0:0:1]", 80, true);
        check("[::1]:80", "[::1]", 80, true);
        check("[::1]:80", "[::1]", 81, false);
        check("127.0.0.1", "127.0.0.1", 1, true);
        check("127.0.0.1", "127.0.0.2", 1, false);
        check("::ffff:10.0.0.1", "10.0.0.1", 1, true);
        assert!(!Allowed::default().allows("gw", 80));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for wrong in ["", ":80", "gw:", "gw:x", "gw:70000", "http://gw", "[::1", "[::1]x", "a b"] {
            assert_eq!(Allowed::parse([wrong]), Err(AllowError(wrong.into())));
        }
    }

    #[test]
    fn everything_that_a_plan_may_not_do_is_listed() {
        let text = "rate = 1\nduration = \"1s\"\nredirects = 2\n\
            [[target]]\nname = \"a\"\nrequest = \"GET http://gw:3069/\"\n\
            [[target]]\nname = \"b\"\nrequest = \"GET https://other/\"\n\
            [[target]]\nname = \"c\"\nrequest = \"GET https://other/x\"\n";
        let plan = Plan::read_sent(&Document::new("p", text), &Variables::none()).unwrap();
        let problems = Allowed::parse(["gw"]).unwrap().problems(&plan);
        let messages: Vec<&str> = problems.iter().map(|own| own.message.as_str()).collect();
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert_eq!(messages[0], "target other:443 is not allowed");
        assert_eq!(
            problems[0].hint,
            "the agent's operator decides: plimsoll agent --allow other:443"
        );
        assert!(messages[1].contains("redirects"));
    }
}
