//! A batch: its calls side by side, its answers in order.

use futures_util::future::join_all;
use plimsoll_rpc::request::Batch;

use super::{Target, Told, answer_call};
use crate::error::Error;

/// Answers a batch into `out`. Calls without an id leave nothing; if none has one, neither does the
/// batch.
pub(super) async fn answer<'a>(
    target: &Target<'a>,
    batch: &Batch<'_>,
    out: &mut Vec<u8>,
    told: &mut Told<'a>,
) {
    let answers = join_all(batch.calls().map(|call| async move {
        let mut told = Told::default();
        let mut answer = target.worker.take_buffer();
        match call {
            Ok(call) => {
                answer_call(target, &call, &mut answer, &mut told).await;
            }
            Err(refused) => {
                let error = Error::from(refused.why);
                target.count_refused(&error);
                error.write(target.shape, refused.id.unwrap_or(b"null"), &mut answer);
                told.failed = 1;
            }
        }
        (answer, told)
    }))
    .await;
    let start = out.len();
    for (answer, one) in answers {
        told.join(one);
        if !answer.is_empty() {
            out.push(if out.len() == start { b'[' } else { b',' });
            out.extend_from_slice(&answer);
        }
        target.worker.give_buffer(answer);
    }
    if out.len() > start {
        out.push(b']');
        told.status = 200;
    }
}
