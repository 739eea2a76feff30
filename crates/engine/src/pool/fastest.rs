//! The shortest service time of late: what an answer takes at the least.

use plimsoll_measure::Nanos;

/// The shortest service time of the last ten seconds.
#[derive(Default)]
pub(super) struct Fastest {
    /// By second modulo the number of places: the second that each stands for, and its shortest.
    seconds: [Option<(u64, Nanos)>; FASTEST_SECONDS as usize],
    /// The shortest of all, with the last second that had it.
    shortest: Option<(u64, Nanos)>,
}

const FASTEST_SECONDS: u64 = 10;

impl Fastest {
    #[inline]
    pub(super) fn add(&mut self, service_time: Nanos, now: Nanos) {
        let second = now.0 / 1_000_000_000;
        let place = &mut self.seconds[(second % FASTEST_SECONDS) as usize];
        match place {
            Some((at, shortest)) if *at == second && *shortest <= service_time => return,
            _ => *place = Some((second, service_time)),
        }
        self.shortest = match self.shortest {
            Some((_, shortest)) if service_time <= shortest => Some((second, service_time)),
            Some((at, _)) if at + FASTEST_SECONDS > second => self.shortest,
            _ => self.look(second),
        };
    }

    #[inline]
    pub(super) fn of_late(&self, now: Nanos) -> Option<Nanos> {
        let second = now.0 / 1_000_000_000;
        match self.shortest {
            Some((at, _)) if at + FASTEST_SECONDS <= second => self.look(second).map(|own| own.1),
            shortest => shortest.map(|own| own.1),
        }
    }

    /// Looks through the seconds.
    fn look(&self, second: u64) -> Option<(u64, Nanos)> {
        let recent = self.seconds.iter().flatten().filter(|(at, _)| at + FASTEST_SECONDS > second);
        recent.copied().min_by_key(|(_, shortest)| *shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_answer_is_forgotten_after_ten_seconds() {
        let mut fastest = Fastest::default();
        let at = Nanos::from_secs;
        assert_eq!(fastest.of_late(at(0)), None, "before the first answer nothing is known");
        fastest.add(Nanos(50), at(1));
        fastest.add(Nanos(70), at(1));
        fastest.add(Nanos(60), at(5));
        assert_eq!(fastest.of_late(at(10)), Some(Nanos(50)));
        assert_eq!(fastest.of_late(at(11)), Some(Nanos(60)));
        assert_eq!(fastest.of_late(at(15)), None);
        fastest.add(Nanos(90), at(21));
        assert_eq!(fastest.of_late(at(21)), Some(Nanos(90)));
    }
}
