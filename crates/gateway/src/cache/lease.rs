//! Heads that replicas share, so that they never go back for a client that alternates between them.
//!
//! # Leases
//! A register in the shared store has the heads that all replicas serve. A replica serves them only for
//! as long as it has a lease: until [`LEASE`] after it asked for the register, on its own clock. Higher
//! heads are proposed first, and served [`LEASE`] later on the store's clock. By then every lease that
//! was given before the proposal has ended, and every later one ended at that moment. So no replica
//! serves the old heads when the first one serves the new heads. Clocks are not compared; only their
//! rates have to be the same. A new head costs a delay of up to two renewals and [`LEASE`].
//!
//! # Limits
//! A replica that cannot reach the store serves its own heads, which never go back in its process. A
//! store that has lost the register collects the heads of the replicas that ask for it within one lease;
//! one that asks later, and has served higher heads, has to wait for these to be served again.
//!
//! Pure: the register's value and the store's time come in, a new value and a lease come out.

use plimsoll_measure::Nanos;

use crate::heads::Served;

/// How long a replica serves the heads of the register without asking again: a few renewals, so that a
/// slow one does no harm, and short, because it delays each new head.
pub const LEASE: Nanos = Nanos::from_millis(100);

/// The first word of a value; the number is its version.
const MAGIC: &str = "plimsoll-heads/1";

/// What the register has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The heads that are served.
    pub served: Served,
    /// Those that will be, and when, on the store's clock.
    pub next: Option<(Served, Nanos)>,
}

/// The right to serve heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The heads.
    pub served: Served,
    /// For how long from when the register was asked for.
    pub span: Nanos,
}

/// Takes a register with this record at this time of the store, for a replica whose own upstreams have
/// reached these heads. Returns the lease, and the record to replace the old one with if it differs. The
/// lease holds whether the replacement succeeds or not.
pub fn take(record: Record, own: Served, now: Nanos) -> (Lease, Record) {
    let mut new = record;
    if let Some((served, at)) = new.next {
        if at <= now {
            new = Record { served: new.served.highest(served), next: None };
        } else if at > now + LEASE {
            // The store's clock was set back.
            new.next = Some((served, now + LEASE));
        }
    }
    let is_known = new.served.latest.is_some();
    let span = match new.next {
        _ if !is_known => Nanos::ZERO,
        Some((_, at)) => LEASE.min(at - now),
        None => LEASE,
    };
    let lease = Lease { served: new.served, span };
    let proposed = new.served.highest(own);
    match &mut new.next {
        None if proposed != new.served => new.next = Some((proposed, now + LEASE)),
        // Nobody has a lease yet, so that it need not wait.
        Some((next, _)) if !is_known => *next = next.highest(own),
        _ => {}
    }
    (lease, new)
}

/// The name of the register of a space.
pub fn register(space: &str) -> String {
    format!("plimsoll:1:heads:{space}")
}

impl Record {
    /// Writes the value of a register. A checksum with the register's name shows values that were
    /// damaged or copied from another one.
    pub fn write(&self, register: &str) -> String {
        let number = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
        let heads =
            |heads: Served| [heads.latest, heads.safe, heads.finalized].map(number).join(" ");
        let mut text = heads(self.served);
        if let Some((next, at)) = self.next {
            text += &format!(" {} {}", heads(next), at.0);
        }
        format!("{MAGIC} {:08x} {text}", checksum(register, &text))
    }

    /// Reads the value of a register; `None` if it is not one of ours.
    pub fn read(register: &str, value: &[u8]) -> Option<Record> {
        let rest = std::str::from_utf8(value).ok()?.strip_prefix(MAGIC)?.strip_prefix(' ')?;
        let (sum, text) = rest.split_once(' ')?;
        if sum != format!("{:08x}", checksum(register, text)) {
            return None;
        }
        let mut words = text.split(' ').map(|word| match word {
            "-" => Some(None),
            word => word.parse::<u64>().ok().map(Some),
        });
        let mut heads = || {
            let mut number = || words.next().flatten();
            Some(Served { latest: number()?, safe: number()?, finalized: number()? })
        };
        let served = heads()?;
        let next = match heads() {
            None => None,
            Some(next) => Some((next, Nanos(words.next().flatten().flatten()?))),
        };
        let record = Record { served, next };
        // Nothing is missing, and nothing follows.
        (record.write(register).as_bytes() == value).then_some(record)
    }
}

fn checksum(register: &str, text: &str) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(register.as_bytes());
    crc.update(text.as_bytes());
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::rng;

    fn heads(latest: u64) -> Served {
        Served { latest: Some(latest), safe: Some(latest / 2), finalized: None }
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let at = Nanos::from_secs(1_700_000_000);
        for record in [
            Record::default(),
            Record { served: heads(7), next: None },
            Record { served: Served::default(), next: Some((heads(8), at)) },
            Record { served: heads(7), next: Some((heads(8), at)) },
        ] {
            let text = record.write("a");
            assert_eq!(Record::read("a", text.as_bytes()), Some(record), "{text}");
            assert_eq!(Record::read("b", text.as_bytes()), None, "of another register");
            for cut in 0..text.len() {
                assert_eq!(Record::read("a", &text.as_bytes()[..cut]), None, "{cut}");
            }
        }
        for foreign in ["", "7", "plimsoll-heads/1 00000000 7 - -", "{\"latest\":7}"] {
            assert_eq!(Record::read("a", foreign.as_bytes()), None, "{foreign}");
        }
    }

    /// Replicas with clocks of their own renew at random times, over a slow network. Whenever one serves
    /// heads, none has served higher ones before.
    #[test]
    fn no_replica_serves_less_than_another_one_has() {
        for seed in 0..200 {
            let mut random = rng::Key::new(seed).sequence();
            // The register, and each replica's own head, lease and its end.
            let mut record = Record::default();
            let mut replicas = [(100, Served::default(), Nanos::ZERO); 3];
            let (mut now, mut served, mut head) = (Nanos::from_secs(5), None, 100);
            let mut seen = 0;
            for _ in 0..3_000 {
                now += Nanos::from_millis(1 + random.below(9));
                let place = random.below(3) as usize;
                if random.below(20) == 0 {
                    head += 1;
                }
                // Each has reached the head, or lags.
                replicas[place].0 = head - random.below(3);
                let (own, known, until) = replicas[place];
                if random.below(3) == 0 {
                    let (there, between) = (random.below(20), random.below(5));
                    let store = now + Nanos::from_millis(there);
                    let (lease, new) = take(record, known.highest(heads(own)), store);
                    if between != 0 {
                        record = new;
                    }
                    let is_behind = known.latest > lease.served.latest;
                    let until = if is_behind { Nanos::ZERO } else { now + lease.span };
                    replicas[place] = (own, known.highest(lease.served), until);
                    now = store;
                } else if now < until {
                    assert!(known.latest >= served, "seed {seed}: {known:?} after {served:?}");
                    seen += u64::from(known.latest > served);
                    served = known.latest;
                }
            }
            assert!(seen > 20, "seed {seed}: {seen} heads were served");
        }
    }

    #[test]
    fn a_lost_register_collects_the_heads_before_anybody_serves() {
        let now = Nanos::from_secs(100);
        let (lease, new) = take(Record::default(), heads(7), now);
        assert_eq!(lease.span, Nanos::ZERO);
        let (lease, new) = take(new, heads(9), now + Nanos::from_millis(60));
        assert_eq!(lease.span, Nanos::ZERO);
        let (lease, new) = take(new, heads(7), now + LEASE);
        assert_eq!(lease, Lease { served: heads(9), span: LEASE });
        assert_eq!(new, Record { served: heads(9), next: None });
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_hold_the_head() {
        let now = Nanos::from_secs(100);
        let (_, new) = take(Record::default(), heads(7), now);
        let earlier = Nanos::from_secs(50);
        let (_, new) = take(new, heads(7), earlier);
        let (lease, _) = take(new, heads(7), earlier + LEASE);
        assert_eq!(lease.served, heads(7));
    }
}
