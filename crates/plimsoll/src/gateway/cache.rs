//! `plimsoll gateway cache`: the figures of a running gateway's cache, and removing answers from it.
//!
//! Talks to `/api/v1/cache` of one process: that of `--admin`, or the first address of the configuration
//! that has the admin face.

use super::admin::client::{Client, token};
use crate::{put, usage_error};
use anyhow::Context;
use clap::{Args, Subcommand};
use plimsoll_registry::config::{Config, Inputs};
use plimsoll_registry::settings::Settings;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

/// How long connecting, and each read, may take. Removing answers from a large Redis takes seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest answer that is read.
const ANSWER_MAX: u64 = 16 << 20;

#[derive(Args)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    verb: Verb,
    /// Address of the gateway; each replica has its own memory [default: the configuration's first
    /// address with the admin face]
    #[arg(long, value_name = "HOST:PORT", global = true)]
    address: Option<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Print what is stored, and how calls used it, as JSON
    #[command(after_help = "Examples:
  plimsoll gateway cache stats | jq .services
      calls by service, method and use of the cache: hit, shared (in
      Redis), coalesced, miss or bypass
  plimsoll gateway cache stats | jq .redis
      whether Redis is used, and if not, why (trouble)

docs/caching.md explains the figures and lists what is cached for how long.")]
    Stats,
    /// Remove answers from this process's memory and from Redis
    #[command(after_help = "Examples:
  plimsoll gateway cache drop
      remove all answers; other replicas keep those in their own memory
  plimsoll gateway cache drop --service eth --method eth_getBlockByNumber \\
      --key '[\"0x1b4\",false]'
      remove the answer to one call")]
    Drop {
        /// Only answers of this service
        #[arg(long, value_name = "ID")]
        service: Option<String>,
        /// Only answers of this method
        #[arg(long, value_name = "NAME")]
        method: Option<String>,
        /// Only the answer to the call with these params (JSON); needs --service and --method
        #[arg(long, value_name = "PARAMS", requires_all = ["service", "method"])]
        key: Option<String>,
    },
}

/// Runs the command.
pub(super) fn run(
    args: CacheArgs,
    inputs: &Inputs,
    admin: Option<Client>,
) -> anyhow::Result<ExitCode> {
    let (verb, query) = match args.verb {
        Verb::Stats => ("GET", String::new()),
        Verb::Drop { service, method, key } => {
            let given = [("service", service), ("method", method), ("key", key)];
            let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
            let pairs: Vec<String> =
                given.map(|(name, value)| format!("{name}={}", escaped(&value))).collect();
            ("DELETE", format!("?{}", pairs.join("&")))
        }
    };
    let (address, status, body) = match (admin, args.address) {
        (Some(_), Some(_)) => {
            return Err(usage_error("--address cannot be used with --admin", "give one of them"));
        }
        (Some(client), None) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (status, body) = runtime.block_on(client.cache(verb, &query))?;
            (client.url().to_string(), status, body)
        }
        (None, address) => {
            let address = address.map_or_else(|| configured(inputs), Ok)?;
            let (status, body) = ask(&address, verb, &query, token(&inputs.variables)?)?;
            (address, status, body)
        }
    };
    if status != 200 {
        let message = message_of(&body).unwrap_or(body);
        let hint = match status {
            401 => "set PLIMSOLL_ADMIN_TOKEN to a token of the gateway",
            _ => "",
        };
        return Err(usage_error(format!("the gateway at {address} refused: {message}"), hint));
    }
    put(&format!("{body}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The address of the configuration's first listener with the admin face, those that serve no calls
/// first.
fn configured(inputs: &Inputs) -> anyhow::Result<String> {
    let inputs = Inputs {
        file: inputs.file.clone(),
        variables: inputs.variables.clone().leave_unset(),
        flags: inputs.flags.clone(),
    };
    let config = Config::read(&inputs).map_err(|problems| {
        usage_error(format!("the configuration is not valid\n{problems}"), "")
    })?;
    let Settings { listeners, .. } = &config.settings;
    let mut admin: Vec<_> = listeners.iter().filter(|listener| listener.faces.admin).collect();
    admin.sort_by_key(|listener| listener.faces.serves_calls());
    let Some(listener) = admin.first() else {
        return Err(usage_error("no listener has the admin face", "name it with --address"));
    };
    let mut address = listener.address;
    if address.ip().is_unspecified() {
        let local = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
        address.set_ip(local.parse().context("an address")?);
    }
    Ok(address.to_string())
}

/// Sends a request; returns the status and the body.
fn ask(
    address: &str,
    verb: &str,
    query: &str,
    token: Option<&str>,
) -> anyhow::Result<(u16, String)> {
    let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if address.contains('/') || !matches!(port, Some(Ok(_))) {
        let message = format!("the address \"{address}\" is not HOST:PORT");
        return Err(usage_error(message, "write --address 127.0.0.1:3069"));
    }
    let hint = "start the gateway, or name its address with --address";
    let refused = |error: std::io::Error| {
        usage_error(format!("cannot reach the gateway at {address}: {error}"), hint)
    };
    let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(refused)?.collect();
    let Some(first) = addresses.first() else {
        return Err(usage_error(format!("{address} has no address"), hint));
    };
    let mut socket = TcpStream::connect_timeout(first, TIMEOUT).map_err(refused)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let request = format!(
        "{verb} /api/v1/cache{query} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n{token}\
         Connection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).map_err(refused)?;
    let mut answer = Vec::new();
    socket.take(ANSWER_MAX).read_to_end(&mut answer).map_err(refused)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    match (status, text.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.trim_end().to_string())),
        _ => {
            let hint = "is it a gateway, and does it serve http there, not https?";
            Err(usage_error(format!("{address} did not answer in HTTP/1.1"), hint))
        }
    }
}

/// The message of an error answer.
fn message_of(body: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(body).ok()?;
    let message = answer["error"]["message"].as_str().or(answer["message"].as_str());
    message.map(String::from)
}

/// A value of a query.
pub(super) fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte.into()),
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}
