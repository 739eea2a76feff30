//! The scripts of shared limits in a real Redis.

use super::*;
use crate::limits::lease::{Grant, Request};
use crate::limits::store::{Ask, Store};

const HOUR: Nanos = Nanos::from_secs(3_600);

/// Asks a bucket that holds what an hour refills.
async fn lease(redis: &Redis, name: &str, rate: f64, want: u64, back: u64) -> Option<Grant> {
    let request = Request { want, back };
    let ask = Ask { name, rate, burst: HOUR, request };
    Some(redis.lease(&[ask]).await?[0])
}

#[test]
fn buckets_give_out_what_they_hold() {
    let server = Server::start("buckets", &[]);
    runtime().block_on(async {
        let (one, other) = (redis(&server.url()), redis(&server.url()));
        until("connected", async || Shared::is_used(&one) && Shared::is_used(&other)).await;
        // 100 tokens, one each 36 s, so that the time which the test takes does not matter.
        let rate = 100.0 / 3_600.0;
        let granted = async |redis: &Redis, want, back| {
            let grant = lease(redis, "bucket", rate, want, back).await;
            grant.expect("Redis answers").tokens
        };
        assert_eq!(granted(&one, 60, 0).await, 60);
        assert_eq!(granted(&other, 60, 0).await, 40);
        let empty = lease(&other, "bucket", rate, 1, 0).await.expect("Redis answers");
        assert!(
            empty.tokens == 0
                && empty.wait > Nanos::from_secs(6)
                && empty.wait <= Nanos::from_secs(36)
        );
        // What is returned is there again, but never more than the bucket holds.
        assert_eq!(granted(&one, 0, 25).await, 0);
        assert_eq!(granted(&other, 60, 0).await, 25);
        assert_eq!(granted(&other, 200, 5_000).await, 100);
        // Another bucket is full; several are asked at once.
        let ask = |name, want| Ask { name, rate, burst: HOUR, request: Request { want, back: 0 } };
        let grants = one.lease(&[ask("bucket", 1), ask("another", 7)]).await.expect("answers");
        assert_eq!(grants.iter().map(|grant| grant.tokens).collect::<Vec<_>>(), [0, 7]);
    });
}

#[test]
fn a_clock_that_was_set_back_means_an_empty_bucket_at_most() {
    let server = Server::start("clock", &[]);
    runtime().block_on(async {
        let redis = redis(&server.url());
        until("connected", async || Shared::is_used(&redis)).await;
        let mut connection = redis.inner.link.load_full().expect("a link").connection.clone();
        // As if it had been written a year later.
        let mut set = redis::cmd("SET");
        set.arg("bucket").arg("1e15");
        set.query_async::<()>(&mut connection).await.expect("it is set");
        let grant = lease(&redis, "bucket", 1.0, 10, 0).await.expect("Redis answers");
        assert!(grant.tokens == 0 && grant.wait <= Nanos::from_secs(2), "{grant:?}");
        // Something that is not ours.
        let mut push = redis::cmd("RPUSH");
        push.arg("list").arg("x");
        push.query_async::<()>(&mut connection).await.expect("it is set");
        assert_eq!(lease(&redis, "list", 1.0, 10, 0).await, None);
        assert!(Shared::is_used(&redis), "the connection is still used");
    });
}

#[test]
fn replicas_are_counted() {
    let server = Server::start("replicas", &[]);
    runtime().block_on(async {
        let redis = redis(&server.url());
        until("connected", async || Shared::is_used(&redis)).await;
        for (id, count) in [("a", 1), ("b", 2), ("a", 2), ("c", 3)] {
            assert_eq!(redis.replicas(id).await, Some(count));
        }
        server.signal(Signal::SIGSTOP);
        assert_eq!(redis.replicas("a").await, None);
        assert_eq!(lease(&redis, "bucket", 1.0, 1, 0).await, None);
        server.signal(Signal::SIGCONT);
    });
}
