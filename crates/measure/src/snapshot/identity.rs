//! Accounting identities, and what is reported if one does not hold.

/// An accounting identity that does not hold, with both sides; `None` is a sum over 2⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the counts contradict each other: {of}{identity} does not hold ({} and {})", shown(*left), shown(*right))]
pub struct Imbalance {
    pub(super) of: &'static str,
    pub(super) identity: &'static str,
    pub(super) left: Option<u64>,
    pub(super) right: Option<u64>,
}

fn shown(sum: Option<u64>) -> String {
    sum.map_or("more than can be counted".into(), |sum| sum.to_string())
}

/// Compares the sides of an identity.
pub(super) fn equal(
    identity: &'static str,
    left: Option<u64>,
    right: Option<u64>,
) -> Result<(), Imbalance> {
    let holds = left.is_some() && left == right;
    if holds { Ok(()) } else { Err(Imbalance { of: "", identity, left, right }) }
}

/// The sum; `None` if it is too large.
pub(super) fn sum(counts: impl IntoIterator<Item = u64>) -> Option<u64> {
    counts.into_iter().try_fold(0u64, u64::checked_add)
}
