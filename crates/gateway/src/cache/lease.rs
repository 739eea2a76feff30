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
//! # Corrections
//! Heads that turn out to be one upstream's lie are taken back ([`crate::heads`]), here too: a replica
//! that has corrected its own proposes them with the next number of corrections, in the same way. From
//! then on they replace the old ones, and replicas that have not followed yet propose nothing.
//!
//! # Limits
//! A replica that cannot reach the store serves its own heads, which never go back in its process. A
//! store that has lost the register collects the heads of the replicas that ask for it within one lease;
//! one that asks later, and has served higher heads, has to wait for these to be served again.
//!
//! Pure: the register's value and the store's time come in, a new value and a lease come out.

use std::cmp::Ordering;

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
    pub served: Heads,
    /// Those that will be, and when, on the store's clock.
    pub next: Option<(Heads, Nanos)>,
}

/// Heads, and how often heads have been corrected before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// The number of corrections: heads with a higher one replace those with a lower one.
    pub corrections: u64,
    /// The heads.
    pub heads: Served,
}

impl Heads {
    /// Those that replace the others, or the higher of each.
    fn latest(self, other: Heads) -> Heads {
        match self.corrections.cmp(&other.corrections) {
            Ordering::Less => other,
            Ordering::Greater => self,
            Ordering::Equal => Heads { heads: self.heads.highest(other.heads), ..self },
        }
    }
}

/// The right to serve heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The heads.
    pub served: Heads,
    /// For how long from when the register was asked for.
    pub span: Nanos,
}

/// Takes a register with this record at this time of the store, for a replica whose own upstreams have
/// reached these heads. Returns the lease, and the record to replace the old one with if it differs. The
/// lease holds whether the replacement succeeds or not.
pub fn take(record: Record, own: Heads, now: Nanos) -> (Lease, Record) {
    let mut new = record;
    if let Some((served, at)) = new.next {
        if at <= now {
            new = Record { served: new.served.latest(served), next: None };
        } else if at > now + LEASE {
            // The store's clock was set back.
            new.next = Some((served, now + LEASE));
        }
    }
    let is_known = new.served.heads.latest.is_some();
    let span = match new.next {
        _ if !is_known => Nanos::ZERO,
        Some((_, at)) => LEASE.min(at - now),
        None => LEASE,
    };
    let lease = Lease { served: new.served, span };
    let proposed = new.served.latest(own);
    match &mut new.next {
        None if proposed != new.served => new.next = Some((proposed, now + LEASE)),
        Some((next, _)) if own.corrections > next.corrections => {
            new.next = Some((proposed, now + LEASE));
        }
        // Nobody has a lease yet, so that it need not wait.
        Some((next, _)) if !is_known => *next = next.latest(own),
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
        let heads = |Heads { corrections, heads }: Heads| {
            let Served { latest, safe, finalized } = heads;
            [Some(corrections), latest, safe, finalized].map(number).join(" ")
        };
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
            let corrections = number()??;
            let heads = Served { latest: number()?, safe: number()?, finalized: number()? };
            Some(Heads { corrections, heads })
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

    fn heads(latest: u64) -> Heads {
        let heads = Served { latest: Some(latest), safe: Some(latest / 2), finalized: None };
        Heads { corrections: 0, heads }
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let at = Nanos::from_secs(1_700_000_000);
        for record in [
            Record::default(),
            Record { served: heads(7), next: None },
            Record { served: Heads::default(), next: Some((heads(8), at)) },
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

    struct Replica {
        /// The head of its upstreams, and whether it has just been corrected.
        own: u64,
        is_correcting: bool,
        known: Heads,
        until: Nanos,
    }

    /// Replicas with clocks of their own renew at random times, over a slow network, and sometimes one
    /// corrects its heads. Whenever one serves heads, none has served higher ones before, unless they
    /// have been corrected.
    #[test]
    fn no_replica_serves_less_than_another_one_has() {
        for seed in 0..200 {
            let mut random = rng::Key::new(seed).sequence();
            let mut record = Record::default();
            let mut replicas = [(); 3].map(|()| Replica {
                own: 100,
                is_correcting: false,
                known: Heads::default(),
                until: Nanos::ZERO,
            });
            let (mut now, mut served, mut head) = (Nanos::from_secs(5), (0, None), 100);
            let mut seen = 0;
            for _ in 0..3_000 {
                now += Nanos::from_millis(1 + random.below(9));
                let replica = &mut replicas[random.below(3) as usize];
                if random.below(20) == 0 {
                    head += 1;
                }
                if random.below(300) == 0 {
                    head -= 10;
                    replica.is_correcting = true;
                }
                // Each has reached the head, or lags.
                replica.own = head - random.below(3);
                if random.below(3) == 0 {
                    let (there, between) = (random.below(20), random.below(5));
                    let store = now + Nanos::from_millis(there);
                    let Heads { corrections, .. } = replica.known;
                    let own = match replica.is_correcting {
                        true => Heads { corrections: corrections + 1, ..heads(replica.own) },
                        false => replica.known.latest(Heads { corrections, ..heads(replica.own) }),
                    };
                    let (lease, new) = take(record, own, store);
                    if between != 0 {
                        record = new;
                    }
                    let is_behind = lease.served.latest(replica.known) != lease.served;
                    replica.until = if is_behind { Nanos::ZERO } else { now + lease.span };
                    replica.is_correcting &= lease.served.corrections <= corrections;
                    replica.known = replica.known.latest(lease.served);
                    now = store;
                } else if now < replica.until {
                    let known = (replica.known.corrections, replica.known.heads.latest);
                    assert!(known >= served, "seed {seed}: {known:?} after {served:?}");
                    seen += u64::from(known > served);
                    served = known;
                }
            }
            assert!(seen > 20, "seed {seed}: {seen} heads were served");
            assert!(served.0 > 2, "seed {seed}: {} corrections", served.0);
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
    fn corrected_heads_replace_higher_ones_once_no_lease_holds() {
        let now = Nanos::from_secs(100);
        let record = Record { served: heads(9_000), next: Some((heads(9_001), now + LEASE)) };
        let corrected = Heads { corrections: 1, ..heads(7) };
        let at = now + Nanos::from_millis(50);
        let (lease, new) = take(record, corrected, at);
        assert_eq!(lease, Lease { served: heads(9_000), span: Nanos::from_millis(50) });
        // A replica that has not followed changes nothing.
        let (lease, new) = take(new, heads(9_002), at + Nanos::from_millis(70));
        assert_eq!(lease, Lease { served: heads(9_000), span: Nanos::from_millis(30) });
        let (lease, new) = take(new, heads(9_002), at + LEASE);
        assert_eq!(lease, Lease { served: corrected, span: LEASE });
        assert_eq!(new, Record { served: corrected, next: None });
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
