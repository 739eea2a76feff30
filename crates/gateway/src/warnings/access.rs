//! Limits of endpoints and keys that contradict each other.

use plimsoll_config::values::{show_duration, show_rate};
use plimsoll_measure::WallClock;
use plimsoll_registry::model::{AccessKey, CallLimits, Endpoint};

/// What is probably wrong with the keys and limits of an endpoint.
pub(super) fn mistakes(endpoint: &Endpoint, now: WallClock) -> Vec<String> {
    let access = &endpoint.access;
    let mut found: Vec<String> = of_limits(&access.limits).collect();
    for key in &access.keys {
        let name = &key.name;
        let own = of_limits(&key.limits).chain(above(&key.limits, &access.limits));
        found.extend(own.map(|text| format!("keys.{name}: {text}")));
    }
    let has_expired = |key: &AccessKey| key.expires.is_some_and(|at| at <= now);
    if !access.keys.is_empty() && access.keys.iter().all(has_expired) {
        found.push("all its keys have expired: every call is refused".into());
    }
    found
}

/// Limits that never apply, because another one of the same kind is reached first.
fn of_limits(limits: &CallLimits) -> impl Iterator<Item = String> {
    let CallLimits { calls, compute_units, daily, monthly, .. } = limits;
    let quotas = daily.zip(*monthly).filter(|(daily, monthly)| monthly < daily);
    let quotas = quotas.map(|(daily, monthly)| {
        format!(
            "limits.daily_compute_units = {daily} has no effect, because the month has \
             {monthly}"
        )
    });
    // A call costs one unit, unless its service says otherwise.
    let rates = compute_units.zip(*calls).filter(|(units, calls)| units < calls);
    let rates = rates.map(|(units, calls)| {
        format!(
            "limits.calls = {} has no effect, because the calls cost at least one of {} compute \
             units",
            show_rate(calls),
            show_rate(units)
        )
    });
    let rate = calls.or(*compute_units);
    let burst = limits.burst.zip(rate).filter(|(burst, rate)| burst.as_secs_f64() * rate < 1.0);
    let burst = burst.map(|(burst, rate)| {
        format!(
            "limits.burst = \"{}\" is less than one call at {}: one at a time is admitted",
            show_duration(burst.into()),
            show_rate(rate)
        )
    });
    quotas.into_iter().chain(rates).chain(burst)
}

/// Limits of a key that never apply, because those of its endpoint are reached first.
fn above(key: &CallLimits, endpoint: &CallLimits) -> impl Iterator<Item = String> {
    let rates = [
        ("calls", key.calls, endpoint.calls),
        ("compute_units", key.compute_units, endpoint.compute_units),
    ];
    let quotas = [
        ("daily_compute_units", key.daily, endpoint.daily),
        ("monthly_compute_units", key.monthly, endpoint.monthly),
    ];
    let rate = |(name, own, of_endpoint): (&str, Option<f64>, Option<f64>)| {
        let (own, most) = own.zip(of_endpoint).filter(|(own, most)| own > most)?;
        Some((name.to_string(), show_rate(own), show_rate(most)))
    };
    let quota = |(name, own, of_endpoint): (&str, Option<u64>, Option<u64>)| {
        let (own, most) = own.zip(of_endpoint).filter(|(own, most)| own > most)?;
        Some((name.to_string(), own.to_string(), most.to_string()))
    };
    let found: Vec<_> =
        rates.into_iter().filter_map(rate).chain(quotas.into_iter().filter_map(quota)).collect();
    found.into_iter().map(|(name, own, most)| {
        format!("limits.{name} = {own} has no effect, because the endpoint has {most}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::Nanos;

    #[test]
    fn contradictory_limits_are_named() {
        let limits = |calls: f64, units: f64, daily: u64, monthly: u64| {
            let some = |number: u64| Some(number).filter(|number| *number > 0);
            let rate = |rate: f64| Some(rate).filter(|rate| *rate > 0.0);
            CallLimits {
                calls: rate(calls),
                compute_units: rate(units),
                burst: None,
                daily: some(daily),
                monthly: some(monthly),
            }
        };
        let key = |limits, expires: &str| AccessKey {
            name: "web".into(),
            hash: [0; 32],
            expires: WallClock::parse(expires),
            limits,
        };
        let now = WallClock::parse("2027-01-31").expect("a date");
        let check = |limits: CallLimits, keys: Vec<AccessKey>, expected: &[&str]| {
            let mut endpoint = Endpoint::named("e", "eth");
            (endpoint.access.limits, endpoint.access.keys) = (limits, keys);
            let found = mistakes(&endpoint, now);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, words) in found.iter().zip(expected) {
                assert!(found.contains(words), "{found}");
            }
        };
        let none = CallLimits::default();
        check(none, Vec::new(), &[]);
        check(limits(100.0, 2_000.0, 1_000, 30_000), vec![key(none, "2028-01-01")], &[]);
        check(limits(0.0, 0.0, 1_000, 999), Vec::new(), &["because the month has 999"]);
        check(limits(100.0, 50.0, 0, 0), Vec::new(), &["limits.calls = 100/s has no effect"]);
        let short = CallLimits { burst: Some(Nanos::from_millis(10)), ..limits(20.0, 0.0, 0, 0) };
        check(short, Vec::new(), &["less than one call at 20/s"]);
        check(
            limits(10.0, 0.0, 0, 500),
            vec![key(limits(20.0, 0.0, 0, 501), ""), key(none, "2027-01-30")],
            &["keys.web: limits.calls = 20/s has no effect", "the endpoint has 500"],
        );
        check(none, vec![key(none, "2027-01-31")], &["all its keys have expired"]);
    }
}
