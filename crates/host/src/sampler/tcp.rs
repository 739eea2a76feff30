//! The kernel's names of the TCP counters in `/proc/net/snmp` and `/proc/net/netstat`.

use crate::parse;
use plimsoll_measure::{Tally, TcpCounter};

/// In `/proc/net/snmp`.
const SNMP: &[(&str, TcpCounter)] = &[
    ("ActiveOpens", TcpCounter::ActiveOpens),
    ("PassiveOpens", TcpCounter::PassiveOpens),
    ("AttemptFails", TcpCounter::AttemptsFailed),
    ("EstabResets", TcpCounter::EstablishedResets),
    ("OutSegs", TcpCounter::SegmentsOut),
    ("RetransSegs", TcpCounter::Retransmitted),
    ("OutRsts", TcpCounter::ResetsOut),
];

/// In `/proc/net/netstat`. Older kernels lack some.
const NETSTAT: &[(&str, TcpCounter)] = &[
    ("PAWSTimewait", TcpCounter::TimeWaitRefused),
    ("ListenOverflows", TcpCounter::ListenOverflows),
    ("ListenDrops", TcpCounter::ListenDrops),
    ("TCPLostRetransmit", TcpCounter::LostRetransmits),
    ("TCPTimeouts", TcpCounter::Timeouts),
    ("TCPAbortOnMemory", TcpCounter::MemoryAborts),
    ("TCPBacklogDrop", TcpCounter::BacklogDrops),
    ("TCPTimeWaitOverflow", TcpCounter::TimeWaitOverflows),
    ("TCPReqQFullDoCookies", TcpCounter::SynCookies),
    ("TCPReqQFullDrop", TcpCounter::SynBacklogDrops),
    ("TCPToZeroWindowAdv", TcpCounter::WindowsClosed),
    ("TCPSynRetrans", TcpCounter::SynRetransmitted),
    ("TCPWinProbe", TcpCounter::WindowProbes),
    ("TCPZeroWindowDrop", TcpCounter::ZeroWindowDrops),
    ("TCPRcvQDrop", TcpCounter::ReceiveDrops),
];

/// Sets the counters that are in `/proc/net/snmp`; returns the established connections.
pub(super) fn read_snmp(text: &str, tally: &mut Tally<TcpCounter>) -> u64 {
    let mut established = 0;
    for (name, value) in parse::counters(text, "Tcp:") {
        if name == "CurrEstab" {
            established = value;
        }
        set(SNMP, name, value, tally);
    }
    established
}

/// Sets the counters that are in `/proc/net/netstat`.
pub(super) fn read_netstat(text: &str, tally: &mut Tally<TcpCounter>) {
    parse::counters(text, "TcpExt:").for_each(|(name, value)| set(NETSTAT, name, value, tally));
}

fn set(names: &[(&str, TcpCounter)], name: &str, value: u64, tally: &mut Tally<TcpCounter>) {
    if let Some((_, counter)) = names.iter().find(|(kernel, _)| *kernel == name) {
        tally.set(*counter, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::Listed;

    #[test]
    fn each_counter_has_one_source() {
        let mut all: Vec<_> = SNMP.iter().chain(NETSTAT).map(|(_, counter)| *counter).collect();
        all.sort_unstable();
        assert_eq!(all, TcpCounter::ALL);
    }
}
