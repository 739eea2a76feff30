//! [`Merge`]: the results of several inputs, in the order of their timestamps.

use super::{Hit, ReadError, Reader, Timestamp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Read;

/// Reads several inputs as one.
///
/// Of the next results of all inputs, the one with the earliest timestamp comes first. The order is
/// exact if each input is sorted. Vegeta writes results in the order in which they completed, so that a
/// result may be late by at most its own latency. An input that is damaged ends there; the others are
/// read on.
pub struct Merge<R> {
    inputs: Vec<Input<R>>,
    /// The inputs that have a next result.
    order: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// The input whose result was taken last.
    taken: Option<usize>,
}

/// One input of a [`Merge`].
pub struct Input<R> {
    /// Its name, for messages.
    pub name: String,
    /// The number of results read.
    pub results: u64,
    /// Why it was not read to its end.
    pub error: Option<ReadError>,
    reader: Reader<R>,
    next: Hit,
}

impl<R: Read> Merge<R> {
    /// Reads the inputs with these names, starting with the first result of each.
    pub fn new(inputs: impl IntoIterator<Item = (String, Reader<R>)>) -> Merge<R> {
        let input =
            |(name, reader)| Input { name, results: 0, error: None, reader, next: Hit::default() };
        let inputs: Vec<_> = inputs.into_iter().map(input).collect();
        let order = BinaryHeap::with_capacity(inputs.len());
        let mut merge = Merge { inputs, order, taken: None };
        (0..merge.inputs.len()).for_each(|at| merge.advance(at));
        merge
    }

    /// The next result, or `None` after the last of all inputs.
    pub fn read(&mut self) -> Option<&Hit> {
        if let Some(taken) = self.taken.take() {
            self.advance(taken);
        }
        let Reverse((_, at)) = self.order.pop()?;
        self.taken = Some(at);
        let input = &mut self.inputs[at];
        input.results += 1;
        Some(&input.next)
    }

    fn advance(&mut self, at: usize) {
        let input = &mut self.inputs[at];
        match input.reader.read(&mut input.next) {
            Ok(true) => self.order.push(Reverse((input.next.timestamp, at))),
            Ok(false) => {}
            Err(error) => input.error = Some(error),
        }
    }

    /// Whether the next `read` may wait for an input, so that output should not be held back.
    pub fn may_wait(&self) -> bool {
        self.taken.is_some_and(|taken| self.inputs[taken].reader.may_wait())
    }

    /// The inputs, in the order given.
    pub fn inputs(&self) -> &[Input<R>] {
        &self.inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vegeta::{Encoder, Fields};
    use proptest::prelude::*;

    fn input(times: &[i64], encoding: &str) -> Vec<u8> {
        let (mut encoder, mut out) = (Encoder::named(encoding).unwrap(), Vec::new());
        for time in times {
            let timestamp = Timestamp::from_unix_nanos(*time);
            encoder.write(&Hit { timestamp, ..Hit::default() }, &mut out).unwrap();
        }
        out
    }

    fn merged(inputs: &[Vec<u8>]) -> (Vec<i64>, Vec<bool>) {
        let readers = inputs.iter().map(|bytes| Reader::new(bytes.as_slice(), Fields::All));
        let mut merge = Merge::new(readers.map(|reader| ("x".to_string(), reader)));
        let mut times = Vec::new();
        while let Some(hit) = merge.read() {
            times.push(hit.timestamp.unix_nanos());
        }
        assert_eq!(
            merge.inputs().iter().map(|input| input.results).sum::<u64>(),
            times.len() as u64
        );
        (times, merge.inputs().iter().map(|input| input.error.is_some()).collect())
    }

    #[test]
    fn a_damaged_input_does_not_stop_the_others() {
        let mut damaged = input(&[2, 4, 6], "gob");
        damaged.pop();
        let inputs = [input(&[1, 5], "csv"), damaged, Vec::new(), input(&[3, 7], "json")];
        assert_eq!(merged(&inputs), (vec![1, 2, 3, 4, 5, 7], vec![false, true, false, false]));
    }

    proptest! {
        #[test]
        fn sorted_inputs_are_merged_in_order(
            mut inputs in prop::collection::vec(prop::collection::vec(0i64..1000, 0..20), 0..5),
        ) {
            inputs.iter_mut().for_each(|times| times.sort_unstable());
            let bytes: Vec<_> = inputs.iter().map(|times| input(times, "gob")).collect();
            let mut expected = inputs.concat();
            expected.sort_unstable();
            prop_assert_eq!(merged(&bytes).0, expected);
        }
    }
}
