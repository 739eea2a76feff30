//! Prometheus pages: no input panics, and parsed series can be printed and parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_measure::prometheus::{Series, parse};
use plimsoll_measure::{Scraped, WallClock};

fuzz_target!(|page: &str| {
    if let Ok(samples) = parse(page) {
        for (series, _) in &samples {
            assert_eq!(Series::parse(&series.to_string()).as_ref(), Ok(series));
        }
        let at = WallClock { unix_ns: 0 };
        let mut sum = Scraped::page(at, samples.clone(), &[]);
        sum.append(&Scraped::page(at, samples, &[]));
    }
});
