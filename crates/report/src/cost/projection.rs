//! Instances and their cost for a target rate: a projection, with its arithmetic.

use super::usage::Usage;
use super::{Basis, CostOf, Known, Resource, amount};
use crate::objectives::percent;
use plimsoll_measure::Nanos;
use plimsoll_measure::units::grouped;

/// Hours of a month: 365 × 24 ÷ 12.
const MONTH_HOURS: f64 = 730.0;

/// A number of instances this little above a whole one is that one: 50.00000000000001 is 50.
const ROUNDING: f64 = 1e-9;

/// A step of the arithmetic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is computed.
    pub of: &'static str,
    /// How, and the result.
    pub text: String,
}

/// What a target rate would need.
#[derive(Clone, Debug)]
pub struct Projection {
    /// Requests per second.
    pub target_rate: f64,
    /// The share of an instance's processors that is used, 0 to 1.
    pub utilisation: f64,
    /// Requests per second that were measured.
    pub measured_rate: f64,
    /// Instances that were measured.
    pub measured_instances: u64,
    /// Relays per request, as measured.
    pub relays_per_request: f64,
    /// CPU time of the instances per relay, as measured.
    pub cpu_per_relay: Nanos,
    /// Virtual processors that are needed.
    pub vcpus: f64,
    /// Instances.
    pub instances: u64,
    /// What the instances cost a month, and all with a price.
    pub month: Known<Month>,
    /// The arithmetic.
    pub steps: Vec<Step>,
}

/// What a month costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Month {
    /// The instances.
    pub instances: f64,
    /// What is used by the request, at the target rate all month: traffic, operations and so on.
    pub usage: Vec<(Resource, f64)>,
    /// All of it.
    pub total: f64,
}

impl Projection {
    pub(super) fn of(
        basis: &Basis<'_>,
        usage: &Usage<'_, '_>,
        total: &CostOf,
        target_rate: f64,
    ) -> Known<Projection> {
        let rules = basis.rules;
        let vcpus_each = rules
            .instance_vcpus
            .ok_or("the plan has no vCPUs per instance (cost.instance_vcpus)")?;
        let instances = usage.instances()?;
        let mut cpu = instances.iter().map(|own| own.cpu());
        let cpu: Nanos =
            cpu.try_fold(Nanos::ZERO, |sum, own: Known<Nanos>| own.map(|own| sum + own))?;
        let relays = total.relays.clone()?;
        let seconds = basis.seconds.len().as_secs_f64();
        if relays == 0 || total.sent == 0 || seconds == 0.0 {
            return Err("nothing was relayed".into());
        }
        let cpu_per_relay = Nanos(cpu.0 / relays);
        let relays_per_request = relays as f64 / total.sent as f64;
        let rates = basis.all.rates();
        let measured_rate = rates.sent.unwrap_or(total.sent as f64 / seconds);
        let per_relay = cpu.as_secs_f64() / relays as f64;
        let vcpus = target_rate * relays_per_request * per_relay;
        let exact = vcpus / (vcpus_each * rules.utilisation);
        let needed = ((exact * (1.0 - ROUNDING)).ceil() as u64).max(1);
        let rate = |rate: f64| grouped(rate.round() as u64);
        let of = percent(rules.utilisation);
        let mut steps = vec![
            Step {
                of: "vCPUs",
                text: format!(
                    "{} requests/s × {relays_per_request:.3} relays per request × {cpu_per_relay} of CPU per relay = {vcpus:.2}",
                    rate(target_rate)
                ),
            },
            Step {
                of: "instances",
                text: format!(
                    "{vcpus:.2} ÷ ({vcpus_each} vCPUs × {of}) = {exact:.2}, rounded up: {needed}"
                ),
            },
        ];
        let month = month(basis, total, target_rate, needed, &mut steps);
        let busy = cpu.as_secs_f64() / seconds / instances.len() as f64 / vcpus_each;
        let instances_measured = instances.len() as u64;
        steps.push(Step {
            of: "measured",
            text: format!(
                "{} requests/s on {instances_measured}, {} of their vCPUs used; the target is {:.1} times that rate",
                rate(measured_rate),
                percent(busy),
                target_rate / measured_rate.max(f64::MIN_POSITIVE),
            ),
        });
        Ok(Projection {
            target_rate,
            utilisation: rules.utilisation,
            measured_rate,
            measured_instances: instances_measured,
            relays_per_request,
            cpu_per_relay,
            vcpus,
            instances: needed,
            month,
            steps,
        })
    }
}

/// What a month costs; each term is a step.
fn month(
    basis: &Basis<'_>,
    total: &CostOf,
    target_rate: f64,
    instances: u64,
    steps: &mut Vec<Step>,
) -> Known<Month> {
    let rules = basis.rules;
    let currency = rules.currency().map(|own| own.to_string()).unwrap_or_default();
    let vcpus = rules.instance_vcpus.unwrap_or_default();
    let (each, how) = match (&rules.instance_month, &rules.vcpu_hour) {
        (Some(price), _) => (price.value(), price.money.to_string()),
        (None, Some(price)) => {
            let each = vcpus * price.value() * MONTH_HOURS;
            (each, format!("{vcpus} vCPUs × 730 hours × {}", price.money))
        }
        (None, None) => {
            return Err("the plan has no price of an instance (cost.instance_month)".into());
        }
    };
    let machines = each * instances as f64;
    let text = format!("{instances} × {how} = {} {currency}", amount(machines));
    steps.push(Step { of: "instances a month", text });
    // The instances are paid for by the month, whatever they do.
    let used = total.parts.iter().filter(|(resource, _)| *resource != Resource::Cpu);
    let requests = target_rate * MONTH_HOURS * 3_600.0;
    let (mut usage, mut sum) = (Vec::new(), machines);
    for (resource, cost) in used {
        let cost = cost.clone()? / total.sent as f64 * requests;
        sum += cost;
        usage.push((*resource, cost));
    }
    if !usage.is_empty() {
        let terms: Vec<String> = usage
            .iter()
            .map(|(resource, cost)| format!("{} {}", resource.words(), amount(*cost)))
            .collect();
        let millions = grouped((requests / 1e6).round() as u64);
        let text = format!(
            "{millions} million requests, at that rate all month: {} {currency}",
            terms.join(", ")
        );
        steps.push(Step { of: "usage a month", text });
        let text = format!("{} {currency}", amount(sum));
        steps.push(Step { of: "a month", text });
    }
    Ok(Month { instances: machines, usage, total: sum })
}
