//! Samples of arrivals on their way to a recording thread.
//!
//! A worker fills a buffer and passes it on when it is full, and at the end of each second. It never
//! waits: if the recording thread is [`WAITING_MAX`] blocks behind, the buffer's samples are dropped and
//! counted. Buffers come back when their blocks are dropped, so nothing is allocated once warm.

use plimsoll_measure::Sample;
use plimsoll_measure::samples::{BLOCK_MAX, Counted};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};

/// Maximum number of blocks that wait for the recording thread; about 16 MiB.
const WAITING_MAX: usize = 32;

/// Which arrivals are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Every arrival.
    All,
    /// Those that were not answered as expected.
    Errors,
}

/// Samples of one worker in one second, at most [`BLOCK_MAX`], in the order in which the arrivals ended.
#[derive(Debug)]
pub struct SampleBlock {
    counted: Counted,
    samples: Vec<Sample>,
    emptied: Sender<Vec<Sample>>,
}

impl SampleBlock {
    /// Where they were counted.
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

impl Drop for SampleBlock {
    fn drop(&mut self) {
        let mut samples = std::mem::take(&mut self.samples);
        samples.clear();
        // Fails if the worker has ended.
        let _ = self.emptied.send(samples);
    }
}

/// Where workers send samples; part of [`Settings`](crate::Settings).
#[derive(Clone, Debug)]
pub struct SampleSink {
    recorded: Recorded,
    blocks: SyncSender<SampleBlock>,
}

impl SampleSink {
    /// A sink and its receiving end, which a thread should empty as fast as it can. Once the receiver is
    /// dropped, all further samples count as dropped.
    pub fn new(recorded: Recorded) -> (SampleSink, Receiver<SampleBlock>) {
        SampleSink::holding(recorded, WAITING_MAX)
    }

    /// The same with another number of waiting blocks.
    pub(crate) fn holding(recorded: Recorded, most: usize) -> (SampleSink, Receiver<SampleBlock>) {
        let (blocks, inbox) = sync_channel(most);
        (SampleSink { recorded, blocks }, inbox)
    }
}

/// A worker's end of a [`SampleSink`].
pub(crate) struct Sampling {
    counted: Counted,
    recorded: Recorded,
    filling: Vec<Sample>,
    blocks: SyncSender<SampleBlock>,
    /// Returns buffers.
    emptied: (Sender<Vec<Sample>>, Receiver<Vec<Sample>>),
}

impl Sampling {
    pub(crate) fn new(worker: usize, sink: &SampleSink) -> Sampling {
        let SampleSink { recorded, blocks } = sink.clone();
        let filling = Vec::with_capacity(BLOCK_MAX);
        let counted = Counted { worker: worker as u16, second: 0 };
        Sampling { counted, recorded, filling, blocks, emptied: channel() }
    }

    /// Whether arrivals that were answered as expected are recorded.
    #[inline]
    pub(crate) fn records_ok(&self) -> bool {
        self.recorded == Recorded::All
    }

    /// Adds a sample. Returns how many were dropped.
    #[inline]
    pub(crate) fn push(&mut self, sample: Sample) -> u64 {
        self.filling.push(sample);
        if self.filling.len() < BLOCK_MAX { 0 } else { self.flush() }
    }

    /// Ends a second: passes on its samples. Returns how many were dropped.
    pub(crate) fn end_second(&mut self) -> u64 {
        let dropped = self.flush();
        self.counted.second += 1;
        dropped
    }

    fn flush(&mut self) -> u64 {
        if self.filling.is_empty() {
            return 0;
        }
        let samples = std::mem::take(&mut self.filling);
        let emptied = self.emptied.0.clone();
        let block = SampleBlock { counted: self.counted, samples, emptied };
        let dropped = match self.blocks.try_send(block) {
            Ok(()) => 0,
            Err(TrySendError::Full(block) | TrySendError::Disconnected(block)) => {
                block.samples.len() as u64
            }
        };
        let empty = self.emptied.1.try_recv();
        self.filling = empty.unwrap_or_else(|_| Vec::with_capacity(BLOCK_MAX));
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::Nanos;
    use plimsoll_measure::samples::Kind;

    fn sample(at: u64) -> Sample {
        Sample {
            scheduled_at: Nanos(at),
            lag: Nanos::ZERO,
            wait: Nanos::ZERO,
            flight: Nanos::ZERO,
            ttfb: None,
            bytes_in: 0,
            bytes_out: 0,
            connection: None,
            kind: Kind {
                target: 0,
                error: None,
                fault: None,
                status: Some(200),
                rpc_code: None,
                sent: true,
            },
            stayed: None,
        }
    }

    #[test]
    fn a_recording_thread_that_is_behind_or_gone_costs_samples_but_no_memory_and_no_time() {
        let (sink, inbox) = SampleSink::new(Recorded::All);
        let mut sampling = Sampling::new(3, &sink);
        let most = (WAITING_MAX * BLOCK_MAX) as u64;
        let mut dropped = 0;
        (0..most + 10_000).for_each(|at| dropped += sampling.push(sample(at)));
        dropped += sampling.end_second();
        assert_eq!(dropped, 10_000);
        let blocks: Vec<SampleBlock> = inbox.try_iter().collect();
        let recorded = blocks.iter().flat_map(SampleBlock::samples).map(|own| own.scheduled_at.0);
        let first = Counted { worker: 3, second: 0 };
        assert!(recorded.eq(0..most) && blocks.iter().all(|block| block.counted() == first));
        drop(blocks);
        assert_eq!(
            (sampling.push(sample(0)), sampling.end_second(), sampling.end_second()),
            (0, 0, 0)
        );
        let seconds: Vec<u32> = inbox.try_iter().map(|block| block.counted().second).collect();
        assert_eq!(seconds, [1]);
        drop(inbox);
        assert_eq!((sampling.push(sample(0)), sampling.end_second()), (0, 1));
    }
}
