//! Encoded histograms: decode, encode and decode again gives the same histogram.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_measure::Histogram;

fuzz_target!(|data: &[u8]| {
    if let Ok(histogram) = Histogram::decode(data) {
        assert_eq!(Histogram::decode(&histogram.encode()), Ok(histogram));
    }
});
