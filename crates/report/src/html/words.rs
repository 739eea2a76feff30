//! How each figure of a page is defined.

use super::escaped;
use std::fmt::Write as _;

/// Terms and their definitions, in the order in which the page shows them.
const TERMS: [(&str, &str); 17] = [
    ("scheduled", "Arrivals: planned requests whose outcome is known. scheduled = sent + unsent."),
    (
        "sent",
        "Arrivals of whose request at least one byte was accepted by the kernel. sent = ok + failed.",
    ),
    (
        "unsent",
        "Arrivals of whose request no byte was accepted, for any reason. They count in every percentile of latency.",
    ),
    (
        "ok",
        "Sent, and answered as the target's expectation requires. Shares are of all scheduled arrivals.",
    ),
    ("failed", "Sent, and not ok. The sum of all errors is unsent + failed."),
    (
        "latency",
        "From the planned instant to the last byte of the answer, or to the failure: lag + wait + service time. It covers every arrival.",
    ),
    (
        "service time",
        "From the first byte sent to the last byte of the answer; most tools call this latency. It covers complete answers.",
    ),
    (
        "lag",
        "From the planned instant until the load generator started the arrival: its own lateness.",
    ),
    (
        "wait",
        "From the start of an arrival until its first byte was sent: waiting for a free connection, DNS, connecting, TLS.",
    ),
    (
        "read lag",
        "From when the kernel received an answer until it was read, on a sample of connections.",
    ),
    (
        "p50, p99, …",
        "Percentiles, from histograms with three significant digits. Those of a longer row are of its merged histograms.",
    ),
    (
        "planned/s",
        "The rate that the plan asks for at the end of a second. Streams with users have none.",
    ),
    (
        "rates over time",
        "An arrival counts in the second in which it ended, not in that in which it was planned. Requests of the warm-up are in the rates over time only.",
    ),
    (
        "rates in tables",
        "Per second of the time in which the streams were active: scheduled while arrivals were planned, sent also while they were sent, ok until the last answer.",
    ),
    (
        "side",
        "The side to which an error or a finding is attributed: the load generator, the network, or the target.",
    ),
    (
        "valid",
        "The load generator did not distort the figures. A valid run can have failures: they are the target's or the network's.",
    ),
    (
        "host",
        "The load generator's host. CPU: share of all processors; worker: CPU of the busiest worker thread; run delay: time a worker waited for a processor; steal: time given to other virtual machines; ports, descriptors, memory: share of the limit in use.",
    ),
];

/// The definitions as a list.
pub(super) fn definitions() -> String {
    let mut html =
        String::from("<section id=\"definitions\">\n<h2>Definitions</h2>\n<dl class=\"terms\">\n");
    for (term, definition) in TERMS {
        let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escaped(term), escaped(definition));
    }
    html.push_str("</dl>\n</section>\n");
    html
}
