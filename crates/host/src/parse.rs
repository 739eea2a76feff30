//! Formats of files in `/proc`: pure functions of their text, which do not allocate.

use plimsoll_measure::{CpuTimes, Nanos, Sockets, Softnet, Throttled};

/// The first line of `/proc/stat`; `None` if there is none.
pub(crate) fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; guest time is part of user time.
    let mut ticks = [0; 8];
    ticks.iter_mut().zip(numbers(line)).for_each(|(tick, number)| *tick = number);
    Some(CpuTimes {
        total: ticks.iter().sum(),
        idle: ticks[3] + ticks[4],
        steal: ticks[7],
        softirq: ticks[6],
    })
}

/// The kernel's own counts in `/proc/net/sockstat`, which take no walk over all sockets. Those
/// established are in `/proc/net/snmp`.
pub(crate) fn sockets(sockstat: &str) -> Sockets {
    let value = |name| in_line(sockstat, "TCP:", name);
    Sockets {
        in_use: value("inuse"),
        established: 0,
        time_wait: value("tw"),
        orphans: value("orphan"),
        pages: value("mem"),
    }
}

/// Sockets of IPv6 in use, in `/proc/net/sockstat6`; the other counts of `sockstat` include them.
pub(crate) fn sockets_v6(sockstat6: &str) -> u64 {
    in_line(sockstat6, "TCP6:", "inuse")
}

/// The number after a word in the line with this prefix, else zero.
fn in_line(text: &str, prefix: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or_default();
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != name).skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// `cpu.stat` of a control group, v1 or v2.
pub(crate) fn throttled(cpu_stat: &str) -> Throttled {
    let value = |name| value(cpu_stat, name);
    // Microseconds in v2, nanoseconds in v1.
    let time = value("throttled_usec").map(|us| us * 1_000).or(value("throttled_time"));
    Throttled { periods: value("nr_throttled").unwrap_or(0), time: Nanos(time.unwrap_or(0)) }
}

/// The number in the line that begins with this name: `name 5`, `name:\t5`.
pub(crate) fn value(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix(|c: char| c == ':' || c.is_ascii_whitespace())
    })?;
    numbers(line).next()
}

/// The numbers at the beginning of a text, separated by white space.
pub(crate) fn numbers(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.split_ascii_whitespace().map_while(|word| word.parse().ok())
}

/// Dropped and squeezed packets in `/proc/net/softnet_stat`: a line of hexadecimal columns per CPU.
pub(crate) fn softnet(softnet_stat: &str) -> Softnet {
    let mut sum = Softnet::default();
    for line in softnet_stat.lines() {
        let mut columns = line
            .split_ascii_whitespace()
            .skip(1)
            .map_while(|word| u64::from_str_radix(word, 16).ok());
        sum.dropped += columns.next().unwrap_or(0);
        sum.squeezed += columns.next().unwrap_or(0);
    }
    sum
}

/// The counters in `/proc/net/snmp` or `/proc/net/netstat`: for each protocol a line of names and a
/// line of values, both with the protocol's prefix.
pub(crate) fn counters<'t>(
    text: &'t str,
    prefix: &'t str,
) -> impl Iterator<Item = (&'t str, u64)> + 't {
    let mut lines = text.lines().filter_map(move |line| line.strip_prefix(prefix));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    // A counter without a limit is printed as -1, such as MaxConn.
    let values = values.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0));
    names.split_ascii_whitespace().zip(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_pair_names_with_values() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: MaxConn RetransSegs\nTcp: -1 7\nTcpExt: A\n";
        let all = |prefix| counters(text, prefix).collect::<Vec<_>>();
        assert_eq!(all("Tcp:"), [("MaxConn", 0), ("RetransSegs", 7)]);
        // Truncated after the names, absent.
        assert_eq!(all("TcpExt:"), []);
        assert_eq!(all("Udp:"), []);
    }

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "Threads:\t3\nnr_throttled_bursts 9\nnr_throttled 4\nnone x\n";
        assert_eq!(value(text, "nr_throttled"), Some(4));
        assert_eq!(value(text, "Threads"), Some(3));
        assert_eq!((value(text, "none"), value(text, "absent")), (None, None));
    }

    #[test]
    fn packets_are_summed_over_cpus() {
        let text = "0000000a 00000001 0000000f 00000000\n0000000b 00000010 00000001\nnot hex\n";
        assert_eq!(softnet(text), Softnet { dropped: 17, squeezed: 16 });
    }
}
