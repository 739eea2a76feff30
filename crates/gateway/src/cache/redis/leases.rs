//! Redis as the store of shared limits: buckets that replicas lease tokens from.
//!
//! A bucket is one number, the time at which it will be full again, on the clock of Redis; it ends when
//! it is full. One script takes tokens out of several buckets. The steps of the clock are bounded by the
//! burst: a time that is too far ahead, because the clock was set back, means an empty bucket.

use plimsoll_measure::Nanos;

use super::{Redis, Shared};
use crate::limits::lease::Grant;
use crate::limits::store::{Answer, Ask, Store};

/// Takes tokens out of the buckets `KEYS`. `ARGV`: for each, the microseconds of a token and of a full
/// bucket, the tokens wanted and those returned. Returns for each the tokens, and the microseconds until
/// there is one. Times count from 2023, so that they keep their precision.
const LEASE: &str = "\
local time = redis.call('TIME')
local now = (time[1] - 1700000000) * 1000000 + time[2]
local out = {}
for i, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[4*i-3]), tonumber(ARGV[4*i-2])
  local want, back = tonumber(ARGV[4*i-1]), tonumber(ARGV[4*i])
  local due = (tonumber(redis.call('GET', key)) or now) - back * interval
  due = math.min(math.max(due, now), now + burst)
  local tokens = math.min(math.floor((now + burst - due) / interval + 0.000001), want)
  due = due + tokens * interval
  redis.call('SET', key, string.format('%.3f', due), 'PX', math.floor((due - now) / 1000) + 1000)
  out[2*i-1] = tokens
  out[2*i] = math.max(math.ceil(due + interval - burst - now), 0)
end
return out";

/// Records a replica, forgets those that have not reported for 10 s, and returns how many there are.
const REPLICAS: &str = "\
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 10)
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 10, '+inf')
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('ZCARD', KEYS[1])";

/// The name of the replicas.
const REPLICAS_NAME: &str = "plimsoll:1:limits:replicas";

impl Store for Redis {
    fn is_used(&self) -> bool {
        Shared::is_used(self)
    }

    fn lease<'a>(&'a self, asks: &'a [Ask<'a>]) -> Answer<'a, Vec<Grant>> {
        let mut pipe = redis::pipe();
        let command = pipe.cmd("EVAL").arg(LEASE).arg(asks.len());
        for ask in asks {
            command.arg(ask.name);
        }
        for ask in asks {
            let interval = 1e6 / ask.rate;
            let burst = (ask.burst.as_secs_f64() * 1e6).max(interval);
            command.arg(interval).arg(burst).arg(ask.request.want).arg(ask.request.back);
        }
        Box::pin(async move {
            let [value] = self.inner.ask(&pipe).await.ok()?;
            let flat: Vec<u64> = redis::from_redis_value(value).ok()?;
            let grants = flat
                .chunks_exact(2)
                .map(|pair| Grant { tokens: pair[0], wait: Nanos::from_micros(pair[1]) });
            Some(grants.collect())
        })
    }

    fn replicas<'a>(&'a self, id: &'a str) -> Answer<'a, u64> {
        let mut pipe = redis::pipe();
        pipe.cmd("EVAL").arg(REPLICAS).arg(1).arg(REPLICAS_NAME).arg(id);
        Box::pin(async move {
            let [value] = self.inner.ask(&pipe).await.ok()?;
            redis::from_redis_value(value).ok()
        })
    }
}
