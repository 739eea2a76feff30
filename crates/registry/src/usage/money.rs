//! What usage costs: the customer's price, and the network's cost beside it, as configured.

pub use plimsoll_config::money::{Amount, Currency, Money, PARAMETER_MAX, Price, of_upokt};

use crate::settings::NetworkCost;

/// What relays cost on the network, in uPOKT: of each service their number and its CUPR; `None` if a
/// parameter is not configured.
pub fn upokt(network: &NetworkCost, relays: impl IntoIterator<Item = (u64, u64)>) -> Option<u64> {
    Some(plimsoll_config::money::upokt((network.cuttm?, network.cucg?), relays))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_parameters_there_is_no_cost() {
        let network =
            |cuttm| NetworkCost { cuttm, cucg: Some(1_000_000), ..NetworkCost::default() };
        assert_eq!(upokt(&network(Some(42_000_000)), [(10, 7)]), Some(2_940));
        assert_eq!(upokt(&network(None), [(1, 1)]), None);
    }
}
