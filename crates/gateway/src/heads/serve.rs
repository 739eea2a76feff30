//! Which heads are served: the measure and the quorum.

use plimsoll_measure::Nanos;

use super::{Heads, STUCK_BLOCKS, STUCK_MIN, Served, Standing, Upstream};

impl Heads {
    /// The highest head that others are measured by: of three or more upstreams on the served chain,
    /// one that two have reached.
    pub(super) fn measure(&self) -> Option<u64> {
        let on_chain = || self.upstreams.iter().filter(|known| known.is_on_chain());
        let risen_at = on_chain().map(|known| known.risen_at).max()?;
        let stuck_after = Nanos(STUCK_BLOCKS.saturating_mul(self.settings.block_time.0));
        let stuck_after = stuck_after.max(STUCK_MIN);
        let moves = |known: &&Upstream| risen_at - known.risen_at <= stuck_after;
        let all = self.vouched(on_chain().map(Upstream::reach));
        all.max(self.vouched(on_chain().filter(moves).map(Upstream::reach)))
    }

    /// Of three numbers or more, the second highest; of two, the higher unless it is a jump.
    fn vouched(&self, numbers: impl Iterator<Item = u64>) -> Option<u64> {
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let needs_two = match numbers[..] {
            [] | [_] => false,
            [higher, _] => self.is_jump(higher),
            _ => true,
        };
        numbers.get(usize::from(needs_two)).copied()
    }

    /// Raises the served heads.
    pub(super) fn serve(&mut self, now: Nanos) {
        let is_first = self.served.latest.is_none();
        if is_first && !self.is_met(now) {
            return;
        }
        let measure = self.measure();
        let current = || self.upstreams.iter().filter(|known| known.standing == Standing::Current);
        let reached = quorum(current().map(Upstream::reach)).min(measure);
        let by_all = current().map(Upstream::reach).min();
        let waits = |reached: &u64| Some(*reached) > self.served.latest.max(by_all);
        let next = match reached.filter(waits) {
            None => {
                self.next = None;
                reached
            }
            Some(reached) => {
                let (number, since) = *self.next.get_or_insert((reached, now));
                // It may have been wrong.
                let number = number.min(reached);
                let polls = if self.is_jump(number) { 2 } else { 1 };
                let is_over = now - since >= Nanos(polls * self.settings.grace.0) || is_first;
                if is_over {
                    self.next = None;
                }
                if is_over { Some(number) } else { by_all }
            }
        };
        let latest = self.served.latest.max(next);
        let safe = self.served.safe.max(quorum(current().filter_map(|known| known.safe)));
        let finalized =
            self.served.finalized.max(quorum(current().filter_map(|known| known.finalized)));
        // Upstreams poll them one after the other, but they must be in order.
        let finalized = finalized.min(latest);
        let safe = safe.map(|safe| Some(safe).max(finalized)).unwrap_or_default().min(latest);
        self.served = Served { latest, safe, finalized };
        if let Some(peak) = latest.filter(|peak| self.peak.is_none_or(|(old, _)| *peak > old)) {
            self.peak = Some((peak, now));
        }
        self.weigh(is_first, now);
    }

    /// Whether enough upstreams have been asked for a first head, or enough time has passed.
    fn is_met(&self, now: Nanos) -> bool {
        let count = self.upstreams.len();
        let asked = self.upstreams.iter().filter(|known| known.is_asked).count();
        let needed = (count / 2 + 1).max(count.min(3));
        asked >= needed || self.first_at.is_some_and(|at| now - at >= self.settings.grace)
    }
}

/// The highest number that at least half of these have reached.
fn quorum(numbers: impl Iterator<Item = u64>) -> Option<u64> {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.get(numbers.len().div_ceil(2).checked_sub(1)?).copied()
}
