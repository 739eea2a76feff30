//! Objectives as they are written.

use super::*;

#[test]
fn metrics_and_values() {
    let check = |that: &str, metric, operator, value, unit| {
        let objective = Objective::parse(that).unwrap();
        let read = (objective.metric, objective.operator, objective.value, objective.unit);
        assert_eq!(read, (metric, operator, value, unit), "{that}");
    };
    use Operator::*;
    let time = |kind, quantile| Metric::Time(kind, TimeStat::Quantile(quantile));
    check("success >= 99%", Metric::Success, GreaterOrEqual, 0.99, Unit::Share);
    check("success>=0.99", Metric::Success, GreaterOrEqual, 0.99, Unit::Share);
    check("latency.p99 < 250ms", time(TimeKind::Latency, 0.99), Less, 2.5e8, Unit::Time);
    check("service_time.p99.9<1s", time(TimeKind::ServiceTime, 0.999), Less, 1e9, Unit::Time);
    check("lag.p999 <= 5ms", time(TimeKind::Lag, 0.999), LessOrEqual, 5e6, Unit::Time);
    check("errors.reset == 0", Metric::ErrorClass(ErrorClass::Reset), Equal, 0.0, Unit::Count);
    check("unsent < 0.1%", Metric::Unsent, Less, 0.001, Unit::Share);
    check("status.429 < 10", Metric::Status { from: 429, to: 429 }, Less, 10.0, Unit::Count);
    check("rate.ok > 4900/s", Metric::RateOk, Greater, 4900.0, Unit::Rate);
    check("rate.ok > 4.9k", Metric::RateOk, Greater, 4900.0, Unit::Rate);
    let server_errors = Metric::Status { from: 500, to: 599 };
    check("status.5xx == 0", server_errors, Equal, 0.0, Unit::Count);
    check("status.5xx < 1%", server_errors, Less, 0.01, Unit::Share);
    check("rpc.errors < 5%", Metric::RpcErrors, Less, 0.05, Unit::Share);
}

#[test]
fn problems_have_hints() {
    let check = |that: &str, message: &str, hint: &str| {
        assert_eq!(Objective::parse(that).unwrap_err(), (message.into(), hint.into()));
    };
    check(
        "latency",
        "\"latency\" does not compare with a value; use <, <=, >, >= or ==",
        "write it like: latency.p99 < 250ms",
    );
    check("sucess > 99%", "unknown metric \"sucess\"", "did you mean \"success\"?");
    check("errors.rest < 1", "unknown error class \"rest\"", "did you mean \"reset\"?");
    check(
        "success > 990",
        "\"990\" is more than all requests; success is at most 100%",
        "write it like 99% or 0.99",
    );
    // The names of other tools, and parts of names.
    check("p99 < 1s", "unknown metric \"p99\"", "did you mean \"latency.p99\"?");
    check("latensy.p99 < 1s", "unknown metric \"latensy.p99\"", "did you mean \"latency.p99\"?");
    check("rps > 5", "unknown metric \"rps\"", "did you mean \"rate.sent\"?");
    check("error_rate < 1%", "unknown metric \"error_rate\"", "did you mean \"errors\"?");
    check(
        "errors.timeout == 0",
        "unknown error class \"timeout\"",
        "did you mean \"connect_timeout\" or \"response_timeout\"?",
    );
    check(
        "latency.avg < 1s",
        "\"latency.avg\" is not a statistic of latency",
        "did you mean \"latency.mean\"?",
    );
    check(
        "status.6xx < 1",
        "\"status.6xx\" is not an HTTP status",
        "HTTP has the classes 1xx to 5xx",
    );
    check(
        "status.6000 < 1",
        "\"status.6000\" is not an HTTP status",
        "write it like status.429 or status.5xx",
    );
    check(
        "status.5xx < many",
        "\"many\" is not a count or a percentage",
        "write it like 10, or 0.1% of all requests",
    );
    // Operators of other languages, and conditions without one.
    let unknown = |sign| format!("\"{sign}\" is not an operator; use <, <=, >, >= or ==");
    check("p99 => 5ms", &unknown("=>"), "write it like: p99 >= 5ms");
    check("errors =< 1", &unknown("=<"), "write it like: errors <= 1");
    check("errors = 0", &unknown("="), "write it like: errors == 0");
    check("errors ≤ 1", &unknown("≤"), "write it like: errors <= 1");
    let bound = "give the bound that must hold, such as: errors < 5";
    check("errors != 5", &unknown("!="), bound);
    check("errors <> 5", &unknown("<>"), bound);
    let bare = |that| format!("\"{that}\" does not compare with a value; use <, <=, >, >= or ==");
    check("p99", &bare("p99"), "write it like: latency.p99 < 250ms");
    check("success", &bare("success"), "write it like: success >= 99%");
    check("rps", &bare("rps"), "write it like: rate.sent >= 100/s");
    // Bounds that no run can meet.
    let most = "\"101%\" is more than all requests; success is at most 100%";
    check("success > 101%", most, "write it like 99% or 0.99");
    check("success >= 99", "\"99\" has no unit; success is a share of the requests", "write 99%");
    check("success > 100%", "no share is above 100%", "write == 100%, or a lower bound");
    check("errors < 0", "nothing is below zero", "write == 0, or a higher bound");
    check(
        "errors < 101%",
        "\"101%\" is more than all; a share is at most 100%",
        "write it like 1%",
    );
    let error = Objective::parse("latency.p101 < 1s").unwrap_err().0;
    assert_eq!(error, "\"latency.p101\" is not a statistic of latency");
    assert!(Objective::parse("latency.p99 < 250").is_err());
    assert!(Objective::parse("frobs > 1").unwrap_err().1.starts_with("known: success"));
}

#[test]
fn where_narrows() {
    let check = |text: &str, that: &str, narrowed: &[(&str, &str)]| {
        let objective = Objective::parse(text).unwrap();
        let owned = narrowed.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        assert_eq!(
            (objective.that.as_str(), objective.narrowed),
            (that, owned.collect()),
            "{text}"
        );
    };
    let that = "latency.p99 < 250ms";
    check(that, that, &[]);
    check("latency.p99 < 250ms where chain=eth", that, &[("chain", "eth")]);
    check(
        "latency.p99 < 250ms  where chain = eth and target = 'a b'",
        that,
        &[("chain", "eth"), ("target", "a b")],
    );
    check("latency.p99 < 250ms where a=\"1\",b=2", that, &[("a", "1"), ("b", "2")]);
    for bad in ["success > 1% where eth", "success > 1% where =x", "success > 1% where a=,b=1"] {
        let message = Objective::parse(bad).unwrap_err().0;
        assert!(message.ends_with("is not in the form TAG=VALUE"), "{message}");
    }
}
