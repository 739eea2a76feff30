//! Units, clock, seeded randomness, histogram, counters and snapshots.
