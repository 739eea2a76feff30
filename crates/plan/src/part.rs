//! A part of a plan's work: for each stream, the shards that a process or a worker sends.
//!
//! Streams may ask for agents with certain labels, so a process may own all shards of one stream and none of
//! another. Every split of a plan, over agents and over workers, divides a [`Part`] with [`Part::share`].

use crate::{Plan, Shards};

/// For each stream, in plan order, the shards of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part(Vec<Shards>);

impl Part {
    /// All of a plan.
    pub fn whole(plan: &Plan) -> Part {
        Part(vec![Shards::all(); plan.streams.len()])
    }

    /// Nothing of a plan with this many streams.
    pub fn nothing(streams: usize) -> Part {
        Part(vec![Shards::of([]); streams])
    }

    /// The given shards by stream.
    pub fn of(shards: Vec<Shards>) -> Part {
        Part(shards)
    }

    /// The shards of a stream.
    ///
    /// # Panics
    /// If the plan has no such stream.
    pub fn stream(&self, stream: usize) -> &Shards {
        &self.0[stream]
    }

    /// The shards by stream, in plan order.
    pub fn streams(&self) -> &[Shards] {
        &self.0
    }

    /// Part `part` of `parts` of this part, each stream's shards assigned round-robin.
    ///
    /// # Panics
    /// As [`Shards::share`].
    pub fn share(&self, part: usize, parts: usize) -> Part {
        Part(self.0.iter().map(|shards| shards.share(part, parts)).collect())
    }

    /// What is in this part and not in the other.
    pub fn without(&self, other: &Part) -> Part {
        self.zipped(other, Shards::without)
    }

    /// What is in either part.
    pub fn with(&self, other: &Part) -> Part {
        self.zipped(other, Shards::with)
    }

    /// The number of shards of the stream that has most: at most this many workers can share the part.
    pub fn shards_max(&self) -> usize {
        self.0.iter().map(Shards::len).max().unwrap_or(0)
    }

    /// Whether it has no shard of any stream.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Shards::is_empty)
    }

    fn zipped(&self, other: &Part, both: impl Fn(&Shards, &Shards) -> Shards) -> Part {
        assert_eq!(self.0.len(), other.0.len(), "parts of the same plan");
        Part(self.0.iter().zip(&other.0).map(|(own, other)| both(own, other)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_split_are_disjoint_and_complete() {
        let whole = Part::of(vec![Shards::all(), Shards::of([1, 2, 3]), Shards::of([])]);
        let parts: Vec<Part> = (0..2).map(|part| whole.share(part, 2)).collect();
        assert_eq!(parts[0].with(&parts[1]), whole);
        assert_eq!(parts[0].without(&parts[1]), parts[0]);
        assert_eq!(whole.without(&parts[0]), parts[1]);
        assert_eq!((parts[0].stream(1).len(), parts[1].stream(1).len()), (2, 1));
        assert_eq!((whole.shards_max(), Part::nothing(3).shards_max()), (1024, 0));
        assert!(Part::nothing(3).is_empty() && !parts[1].is_empty());
    }
}
