//! Samples of copies of hosts' files, whose second reading differs from the first, and of this host.

use super::*;
use crate::fixture::Fixture;
use plimsoll_measure::{CpuTimes, Softnet, ThreadTime};

/// The files of a host with cgroup v2, at the start.
const START: &[(&str, &str)] = &[
    ("proc/self/status", "VmHWM:\t    2048 kB\n"),
    ("proc/self/task/8/comm", "worker-10\n"),
    ("proc/self/task/8/schedstat", "900 30 4\n"),
    ("proc/self/task/8/status", "voluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t2\n"),
    ("proc/self/task/9/comm", "worker-2\n"),
    ("proc/self/task/9/schedstat", "50 6 1\n"),
    ("proc/self/task/7/comm", "plimsoll\n"),
    ("proc/self/task/7/schedstat", "1 1 1\n"),
    ("proc/stat", "cpu  10 1 2 30 4 0 5 6 9 9\ncpu0 1 2\nintr 5\n"),
    ("proc/net/softnet_stat", "00000010 00000001 00000002\n"),
    ("proc/net/sockstat", "TCP: inuse 3 orphan 1 tw 54 alloc 81 mem 83\n"),
    ("proc/net/sockstat6", "TCP6: inuse 2\n"),
    ("proc/net/snmp", "Tcp: MaxConn OutSegs CurrEstab\nTcp: -1 100 4\n"),
    ("proc/net/netstat", "TcpExt: ListenDrops TCPTimeouts\nTcpExt: 5 6\nIpExt: A\nIpExt: 1\n"),
    ("proc/self/cgroup", "0::/app\n"),
    ("proc/self/mountinfo", "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
    ("sys/fs/cgroup/app/cpu.stat", "usage_usec 7\nnr_throttled 3\nthrottled_usec 5\n"),
    ("sys/fs/cgroup/app/memory.max", "4096\n"),
    ("sys/fs/cgroup/app/memory.current", "1024\n"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "7\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "100\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/self/fd/0", ""),
];

/// Without what depends on this process rather than on the files.
fn sampled(sampler: &mut Sampler) -> HostSample {
    let mut sample = sampler.sample();
    (sample.cpu, sample.user, sample.sampling) = Default::default();
    sample.descriptors = None;
    sample
}

#[test]
fn counts_cover_the_time_since_the_previous_sample() {
    let host = Fixture::new(START);
    let mut sampler = Sampler::new(&host.source(), SampledRun::default());
    assert_eq!(sampler.unread(), [""; 0]);
    // The workers' counts begin with their threads.
    let thread = |cpu, run_delay, preempted| ThreadTime {
        cpu: Nanos(cpu),
        run_delay: Nanos(run_delay),
        preempted,
    };
    let quiet = HostSample {
        rss_peak_bytes: 2 << 20,
        workers: vec![thread(50, 6, 0), thread(900, 30, 2)],
        cpus: Some(CpuTimes::default()),
        softnet: Some(Softnet::default()),
        sockets: Some(Sockets { in_use: 5, established: 4, time_wait: 54, orphans: 1, pages: 83 }),
        ports: Some(28_232),
        conntrack: Some(Usage { used: 7, limit: 100 }),
        memory: Some(Usage { used: 1024, limit: 4096 }),
        throttled: Some(Throttled::default()),
        tcp: Some(Tally::new()),
        ..HostSample::default()
    };
    assert_eq!(sampled(&mut sampler), quiet);

    host.write("proc/self/task/8/schedstat", "950 70 9\n");
    host.write("proc/self/task/8/status", "nonvoluntary_ctxt_switches:\t5\n");
    host.write("proc/self/task/9/schedstat", ""); // has ended
    host.write("proc/stat", "cpu  60 1 2 80 4 0 5 7 9 9\ncpu0 1 2\n");
    host.write("proc/net/softnet_stat", "00000020 00000003 00000002\n00000001 00000000 00000010\n");
    host.write("proc/net/netstat", "TcpExt: ListenDrops TCPTimeouts\nTcpExt: 9 4\n");
    host.write("proc/net/sockstat", "TCP: inuse 4 orphan 0 tw 30000 alloc 81 mem 90\n");
    host.write("sys/fs/cgroup/app/cpu.stat", "nr_throttled 4\nthrottled_usec 9\n");
    let mut tcp = Tally::new();
    tcp.add(TcpCounter::ListenDrops, 4); // a counter never goes back
    let busy = HostSample {
        workers: vec![thread(0, 0, 0), thread(50, 40, 3)],
        cpus: Some(CpuTimes { total: 101, idle: 50, steal: 1, softirq: 0 }),
        softnet: Some(Softnet { dropped: 2, squeezed: 16 }),
        sockets: Some(Sockets {
            in_use: 6,
            established: 4,
            time_wait: 30_000,
            orphans: 0,
            pages: 90,
        }),
        throttled: Some(Throttled { periods: 1, time: Nanos(4_000) }),
        tcp: Some(tcp),
        ..quiet
    };
    assert_eq!(sampled(&mut sampler), busy);
}

#[test]
fn throttling_of_v1_is_sampled() {
    let v1 = "31 1 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
    let host = Fixture::new(&[
        ("proc/self/cgroup", "1:cpu,cpuacct:/app\n"),
        ("proc/self/mountinfo", v1),
        ("sys/fs/cgroup/cpu/app/cpu.stat", "nr_throttled 2\nthrottled_time 77\n"),
        ("sys/fs/cgroup/cpu/cpu.stat", "nr_throttled 0\nthrottled_time 0\n"),
    ]);
    let mut sampler = Sampler::new(&host.source(), SampledRun::default());
    host.write("sys/fs/cgroup/cpu/app/cpu.stat", "nr_throttled 5\nthrottled_time 100\n");
    let throttled = Throttled { periods: 3, time: Nanos(23) };
    assert_eq!(sampler.sample().throttled, Some(throttled));
}

#[test]
fn sources_that_cannot_be_read_are_named_and_the_others_are_sampled() {
    let host = Fixture::new(&[("proc/stat", "cpu  1 0 0 0\n"), ("proc/net/snmp/x", "a folder")]);
    let mut sampler = Sampler::new(&host.source(), SampledRun::default());
    let paths: Vec<_> =
        sampler.unread().iter().filter_map(|unread| unread.split(": ").next()).collect();
    let expected = [
        "cpu.stat",
        "/proc/self/status",
        "/proc/net/softnet_stat",
        "/proc/net/sockstat",
        "/proc/net/snmp",
        "/proc/net/netstat",
        "/proc/self/fd",
        "/proc/self/task",
        "/proc/sys/net/ipv4/ip_local_port_range",
    ];
    assert_eq!(paths, expected);
    assert!(sampler.unread()[4].contains("directory"), "{:?}", sampler.unread());
    let expected = HostSample { cpus: Some(CpuTimes::default()), ..HostSample::default() };
    assert_eq!(sampled(&mut sampler), expected);

    // Files of another format.
    let host = Fixture::new(&[("proc/stat", "none\n"), ("proc/net/sockstat", "\u{0}\n")]);
    let mut sampler = Sampler::new(&host.source(), SampledRun::default());
    let sample = sampled(&mut sampler);
    assert_eq!((sample.cpus, sample.sockets), (None, Some(Sockets::default())));
}

#[test]
fn descriptors_that_the_run_may_need_are_left_to_it() {
    let host = Fixture::new(START);
    let run = SampledRun { descriptors: u64::MAX, ..SampledRun::default() };
    let mut sampler = Sampler::new(&host.source(), run);
    let [unread] = sampler.unread() else { panic!("{:?}", sampler.unread()) };
    assert!(unread.starts_with("/proc and /sys: sampling takes 20 descriptors"), "{unread}");
    let expected =
        HostSample { rss_peak_bytes: 2 << 20, ports: Some(28_232), ..HostSample::default() };
    assert_eq!(sampled(&mut sampler), expected);
}

#[test]
fn this_host_is_sampled() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let started = std::sync::Arc::new(std::sync::Barrier::new(2));
    let there = started.clone();
    let body = move || {
        there.wait();
        let _ = stopped.recv();
    };
    let worker = std::thread::Builder::new().name("worker-0".into()).spawn(body).unwrap();
    started.wait();
    let mut sampler = Sampler::new(&Source::host(), SampledRun::default());
    let grown = std::hint::black_box(vec![1u8; 32 << 20]);
    let sample = sampler.sample();
    assert!(sample.cpu >= sample.user && sample.sampling > Nanos::ZERO);
    assert!(sample.rss_peak_bytes >= grown.len() as u64);
    assert_eq!(sample.workers.len(), 1);
    assert!(sample.workers[0].cpu > Nanos::ZERO);
    assert!(sample.sockets.is_some() && sample.tcp.is_some() && sample.softnet.is_some());
    assert!(sample.descriptors.is_none_or(|open| open.used > 5 && open.limit >= open.used));
    drop(stop);
    worker.join().unwrap();
    assert_eq!(sampler.sample().workers, [ThreadTime::default()], "the thread has ended");
}
