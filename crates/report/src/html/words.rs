//! How each figure of a page is defined.

use super::escaped;
use std::fmt::Write as _;

/// Terms and their definitions, in the order in which the page shows them.
const TERMS: [(&str, &str); 22] = [
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
    ("planned/s", "The arrivals that the plan asks for in a row. Streams with users have none."),
    (
        "started",
        "Arrivals that a worker has started, whether or not they have ended. If it is below planned, the load generator is late.",
    ),
    (
        "rates over time",
        "Sent, ok, failed and unsent arrivals count in the second in which they ended: while the target hangs they fall to zero, and requests in flight rise. The warm-up's requests are shown in the warm-up only.",
    ),
    ("in flight", "Arrivals that have started and not ended."),
    (
        "calls, relays, scrapes",
        "Calls that a gateway answered, from its cache too; calls that it passed on to an upstream; times that a process's metrics were read.",
    ),
    (
        "logs",
        "Lines count in the second in which they were read, up to a tenth of a second after they were written. Of each pattern an example is kept of the first second with a match, of the second with most, and of the last; what looks like a secret is hidden.",
    ),
    (
        "cost",
        "What the scraped processes counted after the warm-up, and the bytes between the load generator and the target, per relay, times the plan's prices. CPU of all scraped processes; units: compute units of the network. The projection is not measured.",
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
