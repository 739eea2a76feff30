//! Settings of traces by OpenTelemetry.

use plimsoll_config::Text;

use crate::model::Address;

/// Which calls are traced, and where their spans are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// Where spans are sent, by OTLP over HTTP; `None`: traces are off.
    pub endpoint: Option<TraceEndpoint>,
    /// Headers of these requests, names in lower case.
    pub headers: Vec<(String, Text)>,
    /// The name of the service in the traces.
    pub service: String,
    /// The share of traces to record, 0 to 1.
    pub sample: f64,
    /// Whether a caller's `traceparent` decides whether its trace is recorded.
    pub respect_parent: bool,
}

/// The receiver of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEndpoint {
    /// The URL, with its path.
    pub url: Text,
    /// The same, parsed.
    pub address: Address,
}

impl TraceSettings {
    /// Whether calls are traced.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.endpoint.is_some()
    }
}

impl Default for TraceSettings {
    fn default() -> TraceSettings {
        TraceSettings {
            endpoint: None,
            headers: Vec::new(),
            service: "plimsoll".into(),
            sample: 0.01,
            respect_parent: true,
        }
    }
}
