//! `eth_sendRawTransaction`: a transaction that an upstream has accepted is never answered with an
//! error, as far as any upstream that can be asked knows it.
//!
//! See [`crate::sends`] for why a send may be refused although it has succeeded.
//!
//! # How a send is answered
//! An acceptance, or a refusal that means acceptance ("already known"), is the answer as soon as it
//! arrives. Every other outcome is settled by a look-up of the transaction first ([`look_up`]),
//! - if an attempt of this call may have delivered it ([`Delivery`]): one that is in flight, or whose
//!   outcome is unknown, which everything but a result and a definite refusal is;
//! - if an earlier call may have delivered it;
//! - if the refusal itself says that the nonce is taken, perhaps by this very transaction.
//!
//! If no upstream has it, the outcome is the answer: a nonce that another transaction has used is an
//! error, although this one was accepted before.
//!
//! A refusal does not overtake an attempt in flight. It waits for it, while the look-up runs at the
//! same time. Attempts that neither end nor are refused are looked up when the service's patience runs
//! out, and [`RESERVE`] before the deadline, because nothing can be asked after it.
//!
//! Which upstream has accepted the transaction is remembered when its attempt ends, and doubts are
//! remembered when the call ends, whether the caller has waited or not.

mod delivery;
mod look_up;

use std::pin::{Pin, pin};

use plimsoll_measure::Nanos;
use plimsoll_rpc::answer;

use super::attempt::JudgedResponse;
use super::dispatch::Dispatched;
use super::message::Summary;
use super::relay::relayed;
use super::target::Target;
use crate::error::Error;
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;
use crate::protocol::evm::send_error::SendError;
use crate::sends::{Hash, Raw};
pub(super) use delivery::Delivery;
use look_up::{Found, LookUp};

/// The method that is settled here.
pub(super) const METHOD: &str = "eth_sendRawTransaction";

/// The time for look-ups before the deadline, if attempts are still in flight; at most a half of the
/// service's timeout.
const RESERVE: Nanos = Nanos::from_secs(2);

/// The answer to a send.
pub(super) enum Settled {
    /// The upstream's own.
    Judged(JudgedResponse),
    /// The transaction was accepted: the result is its hash.
    Accepted(Hash),
}

/// Sends a transaction to as many upstreams as the service asks for, and settles the answer.
///
/// # Errors
/// No upstream has answered, or is known to have the transaction.
pub(super) async fn send<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    summary: &mut Summary<'a>,
) -> Result<Settled, Error> {
    let Some(raw) = dispatched.call.params.and_then(Raw::of) else {
        return relayed(target, dispatched, summary).await.map(Settled::Judged);
    };
    let delivery = Delivery::new(raw, target);
    let dispatched = Dispatched { delivery: Some(&delivery), ..dispatched };
    let looking = LookUp::new(target, &delivery, dispatched.trace);
    let answered = {
        let mut sending = pin!(relayed(target, dispatched, summary));
        until_answered(target, &delivery, &looking, sending.as_mut()).await
    };
    let settled = match answered {
        Some(answered) => settle(&delivery, &looking, answered).await,
        None => Ok(Settled::Accepted(delivery.hash())),
    };
    summary.merge(&looking.into_summary());
    settled
}

/// Waits for the attempts; `None` if a look-up finds the transaction before they end.
async fn until_answered(
    target: &Target<'_>,
    delivery: &Delivery<'_>,
    looking: &LookUp<'_, '_>,
    mut sending: Pin<&mut impl Future<Output = Result<JudgedResponse, Error>>>,
) -> Option<Result<JudgedResponse, Error>> {
    let (local, service) = (&*target.worker.local, &target.service.model);
    let reserve = RESERVE.min(Nanos(service.timeout.0 / 2));
    let moments = [service.patience(), service.timeout - reserve];
    let mut moments = moments.map(|span| Some(target.start + span));
    moments.sort();
    loop {
        let moment = moments.iter_mut().find(|moment| moment.is_some());
        let until = moment.as_deref().copied().flatten().unwrap_or(Nanos(u64::MAX));
        tokio::select! {
            biased;
            answered = &mut sending => return Some(answered),
            () = delivery.refused() => {}
            () = tokio::time::sleep_until(local.instant(until)), if moment.is_some() => {
                moment.and_then(Option::take);
            }
        }
        tokio::select! {
            biased;
            answered = &mut sending => return Some(answered),
            found = looking.run() => if let Found::At(upstream) = found {
                delivery.accepted(upstream);
                return None;
            }
        }
    }
}

/// Settles the outcome of all attempts.
async fn settle(
    delivery: &Delivery<'_>,
    looking: &LookUp<'_, '_>,
    answered: Result<JudgedResponse, Error>,
) -> Result<Settled, Error> {
    match &answered {
        Ok(judged) if judged.result().is_some() => return answered.map(Settled::Judged),
        Ok(judged) if refusal(judged) == Some(SendError::Known) => {
            return Ok(Settled::Accepted(delivery.hash()));
        }
        _ => {}
    }
    let refusal = answered.as_ref().ok().and_then(refusal);
    let is_nonce_taken = matches!(refusal, Some(SendError::NonceUsed | SendError::NotReplaced));
    let in_doubt = delivery.is_in_doubt() || refusal.is_some() && delivery.is_remembered();
    if in_doubt || is_nonce_taken {
        let found = if in_doubt { looking.run().await } else { looking.once().await };
        match found {
            Found::At(upstream) => {
                delivery.accepted(upstream);
                return Ok(Settled::Accepted(delivery.hash()));
            }
            // It was accepted, and nobody can be asked whether another one has replaced it.
            Found::Unanswered if is_nonce_taken && delivery.was_accepted() => {
                return Ok(Settled::Accepted(delivery.hash()));
            }
            Found::Unanswered | Found::Nowhere => {}
        }
    }
    answered.map(Settled::Judged)
}

/// Whether an upstream has the transaction.
pub(super) fn is_accepted(judged: &JudgedResponse) -> bool {
    judged.result().is_some() || refusal(judged) == Some(SendError::Known)
}

/// What an error object says about the transaction; `None` if it says nothing about it: the upstream
/// may have accepted the transaction before it failed.
fn refusal(judged: &JudgedResponse) -> Option<SendError> {
    let RelayOutcome::Rpc(category) = judged.outcome() else { return None };
    let is_definite = !category.retryable() || category == Category::UnsupportedMethod;
    match answer::parse(judged.body()).map(|answer| answer.outcome) {
        Ok(answer::Outcome::Error { message: Some(message), .. }) => {
            let error = SendError::of(message);
            (is_definite || error != SendError::Refused).then_some(error)
        }
        _ => is_definite.then_some(SendError::Refused),
    }
}

/// A hash as a JSON string.
pub(super) fn text(hash: &Hash) -> String {
    let digits = hash.iter().map(|byte| format!("{byte:02x}"));
    format!("\"0x{}\"", digits.collect::<String>())
}
