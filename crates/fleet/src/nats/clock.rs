//! This host's clock, answers to those who ask for it, and the offset to another host's.

use super::{Bus, BusError, error};
use crate::offset::{ClockOffset, OffsetEstimate};
use futures_util::StreamExt;
use plimsoll_measure::{Clock, Nanos, WallClock};
use std::time::Duration;

/// Round trips of a measurement. On a LAN one takes 0.2 ms and most are undisturbed.
const ROUND_TRIPS: usize = 64;
/// Between two round trips: some of them miss what disturbs others.
const PAUSE: Duration = Duration::from_millis(4);
/// A round trip that takes longer tells nothing.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Failed round trips after which the measurement ends with an error.
const FAILURES_MAX: usize = 20;

/// Time since 1970 as it was when this clock was made, and from then on as the monotonic clock counts: steps of
/// the calendar do not move it.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    made_at: Nanos,
    clock: Clock,
}

impl HostClock {
    /// A clock that begins now.
    pub fn start() -> HostClock {
        HostClock { made_at: Nanos(WallClock::now().unix_ns), clock: Clock::start() }
    }

    /// Nanoseconds since 1970.
    pub fn now(&self) -> Nanos {
        self.made_at + self.clock.now()
    }

    /// A clock that reads zero when this one reads `at`.
    pub fn run_clock(&self, at: Nanos) -> Clock {
        self.clock.starting_at(at - self.made_at)
    }
}

impl Bus {
    fn clock_subject(&self, run: &str) -> String {
        format!("plimsoll.{}.clock.{run}", self.tenant)
    }

    /// Answers questions for this host's clock, until the process ends.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn answer_clock(&self, run: &str, clock: HostClock) -> Result<(), BusError> {
        let questions = self.client.subscribe(self.clock_subject(run)).await;
        let mut questions =
            questions.map_err(|why| error(format!("cannot subscribe in NATS: {why}"), ""))?;
        let client = self.client.clone();
        tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let Some(reply) = question.reply else { continue };
                let now = clock.now().0.to_be_bytes();
                // The asker asks again.
                let _ = client.publish(reply, now.to_vec().into()).await;
                let _ = client.flush().await;
            }
        });
        Ok(())
    }

    /// Measures the offset of the coordinator's clock to this host's.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub async fn measure_offset(
        &self,
        run: &str,
        clock: HostClock,
    ) -> Result<ClockOffset, BusError> {
        let subject = self.clock_subject(run);
        let mut estimate = OffsetEstimate::default();
        let (mut done, mut failures) = (0, 0);
        while done < ROUND_TRIPS && failures < FAILURES_MAX {
            let sent = clock.now();
            let asked = self.client.request(subject.clone(), bytes::Bytes::new());
            match tokio::time::timeout(ANSWER_MAX, asked).await {
                Ok(Ok(answer)) => {
                    let received = clock.now();
                    if let Ok(bytes) = <[u8; 8]>::try_from(answer.payload.as_ref()) {
                        estimate.add(sent, Nanos(u64::from_be_bytes(bytes)), received);
                        done += 1;
                    } else {
                        failures += 1;
                    }
                }
                _ => failures += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
        let hint = "check the connection between the agent, NATS and the coordinator";
        estimate.best().ok_or_else(|| error("the coordinator's clock does not answer", hint))
    }
}
