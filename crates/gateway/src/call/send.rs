//! `eth_sendRawTransaction`: a transaction that an upstream has accepted is never answered with an error.
//!
//! See [`crate::sends`] for why a send may be refused although it has succeeded. Here the dispatcher's
//! answer is settled: a refusal that means acceptance becomes the transaction's hash, and which upstream
//! has accepted what is remembered for later reads.
//!
//! If all attempts failed after one of them may have arrived, the transaction is looked for before the
//! caller is told of a failure. That cannot find what an upstream accepted that is gone since.

use std::borrow::Cow;

use plimsoll_rpc::answer;
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::Call;

use super::attempt::JudgedResponse;
use super::dispatch::{Dispatched, dispatch};
use super::heads::Named;
use super::message::Summary;
use super::relay::Target;
use crate::error::{Error, ErrorKind};
use crate::protocol::evm::send_error::SendError;
use crate::sends::{Hash, Raw};

/// The method that is settled here.
pub(super) const METHOD: &str = "eth_sendRawTransaction";

/// The answer to a send.
pub(super) enum Settled {
    /// The upstream's own.
    Judged(JudgedResponse),
    /// The transaction was accepted: the result is its hash.
    Accepted(Hash),
}

/// Settles the answer to a send.
///
/// # Errors
/// No upstream has answered, or is known to have the transaction.
pub(super) async fn settle<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    answered: Result<JudgedResponse, Error>,
    summary: &mut Summary<'a>,
) -> Result<Settled, Error> {
    let Some(raw) = call.params.and_then(Raw::of) else { return answered.map(Settled::Judged) };
    let sent = &target.service.state.sent;
    let now = target.worker.local.now();
    let judged = match answered {
        Ok(judged) => judged,
        Err(error) => {
            let may_have_arrived = matches!(
                error.kind,
                ErrorKind::Broken | ErrorKind::BadAnswer | ErrorKind::BadStatus
            );
            let hash = raw.hash();
            return match may_have_arrived && is_found(target, &hash, summary).await {
                true => Ok(Settled::Accepted(hash)),
                false => Err(error),
            };
        }
    };
    if judged.result().is_some() {
        let sender = raw.sender().map(|(sender, _)| sender);
        sent.accepted(raw.hash(), sender, judged.upstream, now);
        return Ok(Settled::Judged(judged));
    }
    let hash = raw.hash();
    let is_accepted = match refusal(&judged) {
        SendError::Known => {
            let sender = raw.sender().map(|(sender, _)| sender);
            sent.accepted(hash, sender, judged.upstream, now);
            true
        }
        SendError::NonceUsed | SendError::NotReplaced => {
            sent.by_hash(&hash, now).is_some() || is_found(target, &hash, summary).await
        }
        SendError::Refused => false,
    };
    Ok(if is_accepted { Settled::Accepted(hash) } else { Settled::Judged(judged) })
}

/// Whether an upstream has the transaction.
pub(super) fn is_accepted(judged: &JudgedResponse) -> bool {
    judged.result().is_some() || refusal(judged) == SendError::Known
}

/// What an error object says about the transaction.
fn refusal(judged: &JudgedResponse) -> SendError {
    match answer::parse(judged.body()).map(|answer| answer.outcome) {
        Ok(answer::Outcome::Error { message: Some(message), .. }) => SendError::of(message),
        _ => SendError::Refused,
    }
}

/// Whether an upstream finds the transaction.
async fn is_found<'a>(target: &Target<'a>, hash: &Hash, summary: &mut Summary<'a>) -> bool {
    const METHOD: &str = "eth_getTransactionByHash";
    let params = format!("[{}]", text(hash));
    let call = Call { id: None, method: Cow::Borrowed(METHOD), params: Some(params.as_bytes()) };
    let dispatched = Dispatched {
        call: &call,
        method: Method::find(METHOD),
        class: Class::Read,
        is_repeatable: true,
        named: Named::default(),
        prefer: None,
    };
    let found = Box::pin(dispatch(target, dispatched, summary)).await;
    found.is_ok_and(|judged| judged.result().is_some() && !judged.is_null())
}

/// A hash as a JSON string.
pub(super) fn text(hash: &Hash) -> String {
    let digits = hash.iter().map(|byte| format!("{byte:02x}"));
    format!("\"0x{}\"", digits.collect::<String>())
}
