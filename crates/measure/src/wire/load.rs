//! Serialized counts by stream and by origin.

use super::{decode, encode, is_zero};
use crate::Nanos;
use crate::snapshot::{
    OriginCounts, ServiceSum, SplitCounts, SplitValue, StreamCounts, StreamLimits, Window,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Default, Serialize, Deserialize)]
pub(super) struct StreamLine {
    /// Arrivals per second, or users.
    planned: f64,
    #[serde(default, skip_serializing_if = "is_zero")]
    dispatched: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    active: Option<WindowLine>,
    #[serde(default, skip_serializing_if = "is_zero")]
    last_sent_ns: u64,
    #[serde(default, skip_serializing_if = "SplitLine::is_empty")]
    split: SplitLine,
}

#[derive(Default, Serialize, Deserialize)]
struct SplitLine {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    values: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    none: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    other: u64,
}

impl SplitLine {
    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.none == 0 && self.other == 0
    }

    fn from(counts: &SplitCounts) -> SplitLine {
        let values = counts.values.iter();
        SplitLine {
            values: values.map(|(value, n)| (value.as_str().to_string(), *n)).collect(),
            none: counts.none,
            other: counts.other,
        }
    }

    fn into_counts(self) -> SplitCounts {
        let (none, other) = (self.none, self.other);
        let mut counts = SplitCounts { none, other, ..SplitCounts::default() };
        for (value, n) in self.values {
            counts.add(Some(&SplitValue::of(value.as_bytes())), n);
        }
        counts
    }
}

#[derive(Serialize, Deserialize)]
struct WindowLine {
    from_ns: u64,
    planned_to_ns: u64,
    to_ns: u64,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct OriginLine {
    limit: u64,
    open: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    in_use_peak: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    in_use_ns: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    occupied_ns: u64,
    #[serde(default, skip_serializing_if = "ServiceLine::is_empty")]
    connected: ServiceLine,
    #[serde(default, skip_serializing_if = "is_zero")]
    capped_ns: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    wanted: u64,
    #[serde(default, skip_serializing_if = "ServiceLine::is_empty")]
    service_free: ServiceLine,
    #[serde(default, skip_serializing_if = "ServiceLine::is_empty")]
    service_capped: ServiceLine,
    #[serde(default, skip_serializing_if = "is_zero")]
    starved: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http2: Option<StreamLimitsLine>,
}

#[derive(Serialize, Deserialize)]
struct StreamLimitsLine {
    connections: u64,
    streams: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<u64>,
    in_use: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct ServiceLine {
    n: u64,
    total_ns: u64,
}

impl ServiceLine {
    fn from(sum: ServiceSum) -> ServiceLine {
        ServiceLine { n: sum.count, total_ns: sum.total.0 }
    }

    fn is_empty(&self) -> bool {
        self.n == 0
    }

    fn into_sum(self) -> ServiceSum {
        ServiceSum { count: self.n, total: Nanos(self.total_ns) }
    }
}

impl StreamLine {
    pub(super) fn from(counts: &StreamCounts) -> StreamLine {
        StreamLine {
            planned: counts.planned_rate,
            dispatched: counts.dispatched,
            lag: encode(&counts.lag),
            wait: encode(&counts.wait),
            active: counts.active.map(|window| WindowLine {
                from_ns: window.from.0,
                planned_to_ns: window.planned_to.0,
                to_ns: window.to.0,
            }),
            last_sent_ns: counts.last_sent.0,
            split: SplitLine::from(&counts.split),
        }
    }

    pub(super) fn into_counts(self) -> Result<StreamCounts, String> {
        Ok(StreamCounts {
            planned_rate: self.planned,
            dispatched: self.dispatched,
            lag: decode(self.lag)?,
            wait: decode(self.wait)?,
            active: self.active.map(|line| Window {
                from: Nanos(line.from_ns),
                planned_to: Nanos(line.planned_to_ns),
                to: Nanos(line.to_ns),
            }),
            last_sent: Nanos(self.last_sent_ns),
            split: self.split.into_counts(),
        })
    }
}

impl OriginLine {
    pub(super) fn from(counts: &OriginCounts) -> OriginLine {
        OriginLine {
            limit: counts.limit,
            open: counts.open,
            in_use_peak: counts.in_use_peak,
            in_use_ns: counts.in_use.0,
            occupied_ns: counts.occupied.0,
            connected: ServiceLine::from(counts.connected),
            capped_ns: counts.capped.0,
            wanted: counts.wanted,
            service_free: ServiceLine::from(counts.service_free),
            service_capped: ServiceLine::from(counts.service_capped),
            starved: counts.starved,
            http2: counts.http2.map(|own| StreamLimitsLine {
                connections: own.connections,
                streams: own.streams,
                peer: own.peer,
                in_use: own.in_use,
            }),
        }
    }

    pub(super) fn into_counts(self) -> OriginCounts {
        OriginCounts {
            limit: self.limit,
            open: self.open,
            in_use_peak: self.in_use_peak,
            in_use: Nanos(self.in_use_ns),
            occupied: Nanos(self.occupied_ns),
            connected: self.connected.into_sum(),
            capped: Nanos(self.capped_ns),
            wanted: self.wanted,
            service_free: self.service_free.into_sum(),
            service_capped: self.service_capped.into_sum(),
            starved: self.starved,
            http2: self.http2.map(|line| StreamLimits {
                connections: line.connections,
                streams: line.streams,
                peer: line.peer,
                in_use: line.in_use,
            }),
        }
    }
}
