//! The shortest recent service time: the minimum time an answer takes.

use plimsoll_measure::Nanos;

/// The shortest service time of the last ten seconds.
#[derive(Default)]
pub(super) struct Fastest {
    /// A ring buffer of seconds with their shortest service time.
    seconds: [Option<(u64, Nanos)>; FASTEST_SECONDS as usize],
    /// The overall shortest, with the last second in which it occurred.
    shortest: Option<(u64, Nanos)>,
}

const FASTEST_SECONDS: u64 = 10;

impl Fastest {
    #[inline]
    pub(super) fn add(&mut self, service_time: Nanos, now: Nanos) {
        let second = now.0 / 1_000_000_000;
        let entry = &mut self.seconds[(second % FASTEST_SECONDS) as usize];
        match entry {
            Some((at, shortest)) if *at == second && *shortest <= service_time => return,
            _ => *entry = Some((second, service_time)),
        }
        self.shortest = match self.shortest {
            Some((_, shortest)) if service_time <= shortest => Some((second, service_time)),
            Some((at, _)) if at + FASTEST_SECONDS > second => self.shortest,
            _ => self.scan(second),
        };
    }

    #[inline]
    pub(super) fn recent(&self, now: Nanos) -> Option<Nanos> {
        let second = now.0 / 1_000_000_000;
        match self.shortest {
            Some((at, _)) if at + FASTEST_SECONDS <= second => self.scan(second).map(|own| own.1),
            shortest => shortest.map(|own| own.1),
        }
    }

    /// Scans the ring buffer.
    fn scan(&self, second: u64) -> Option<(u64, Nanos)> {
        let seconds = self.seconds.iter().flatten().filter(|(at, _)| at + FASTEST_SECONDS > second);
        seconds.copied().min_by_key(|(_, shortest)| *shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_service_time_expires_after_ten_seconds() {
        let mut fastest = Fastest::default();
        let at = Nanos::from_secs;
        assert_eq!(fastest.recent(at(0)), None, "no answer yet");
        fastest.add(Nanos(50), at(1));
        fastest.add(Nanos(70), at(1));
        fastest.add(Nanos(60), at(5));
        assert_eq!(fastest.recent(at(10)), Some(Nanos(50)));
        assert_eq!(fastest.recent(at(11)), Some(Nanos(60)));
        assert_eq!(fastest.recent(at(15)), None);
        fastest.add(Nanos(90), at(21));
        assert_eq!(fastest.recent(at(21)), Some(Nanos(90)));
    }
}
