//! Numbers by method, given as patterns.

use super::pattern_fits;

/// A number for each method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByMethod<T> {
    /// For methods that no pattern fits.
    pub default: T,
    /// Method patterns and their numbers, the longest first; the first that fits counts.
    pub methods: Vec<(String, T)>,
}

/// 1 for every method.
impl<T: From<u8>> Default for ByMethod<T> {
    fn default() -> ByMethod<T> {
        ByMethod { default: 1.into(), methods: Vec::new() }
    }
}

impl<T: Copy + Ord> ByMethod<T> {
    /// The number of this method.
    #[inline]
    pub fn of(&self, method: &str) -> T {
        if self.methods.is_empty() {
            return self.default;
        }
        let fits = |(pattern, _): &&(String, T)| pattern_fits(pattern, method);
        self.methods.iter().find(fits).map_or(self.default, |(_, number)| *number)
    }

    /// The highest number.
    pub fn most(&self) -> T {
        self.methods.iter().map(|(_, number)| *number).fold(self.default, T::max)
    }
}

/// What a call of each method is charged, 0 (nothing) to [`COMPUTE_UNITS_MAX`].
pub type ComputeUnits = ByMethod<u32>;

/// The maximum of a call's compute units. A month of calls at the highest rate that a gateway can serve
/// fits a 64-bit counter.
pub const COMPUTE_UNITS_MAX: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pattern_that_fits_counts() {
        let methods = [("debug_trace*", 500), ("debug_*", 300), ("eth_call", 26)];
        let units = ComputeUnits {
            default: 10,
            methods: methods.map(|(pattern, number)| (pattern.into(), number)).to_vec(),
        };
        for (method, expected) in [
            ("eth_call", 26),
            ("eth_callMany", 10),
            ("debug_traceCall", 500),
            ("debug_getRawBlock", 300),
            ("", 10),
        ] {
            assert_eq!(units.of(method), expected, "{method}");
        }
        assert_eq!(units.most(), 500);
        assert_eq!(ComputeUnits::default().of("eth_call"), 1);
    }
}
