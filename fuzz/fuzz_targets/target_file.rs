//! Target files: reading any input gives requests, or problems that point to a line of the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_plan::target_file::{Format, read};

fuzz_target!(|data: &[u8]| {
    let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
    for format in [None, Some(Format::Http), Some(Format::Json)] {
        let (requests, wrongs) = read(data, format, false);
        assert!(!requests.is_empty() || !wrongs.is_empty());
        assert!(wrongs.iter().all(|wrong| (1..=lines).contains(&wrong.line)));
    }
});
