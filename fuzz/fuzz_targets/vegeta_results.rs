//! Results of vegeta in any encoding: reading any input ends, with results that can be written and
//! read again, and nothing else than the wanted fields depends on which are wanted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_compat::vegeta::{Encoder, Fields, Hit, Reader};

fn read(data: &[u8], fields: Fields) -> (Vec<Hit>, bool) {
    let (mut reader, mut hits, mut hit) = (Reader::new(data, fields), Vec::new(), Hit::default());
    loop {
        match reader.read(&mut hit) {
            Ok(true) => hits.push(hit.clone()),
            Ok(false) => return (hits, true),
            Err(error) => {
                assert!(!error.in_input("x").is_empty());
                return (hits, false);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (hits, whole) = read(data, Fields::All);
    let (figures, _) = read(data, Fields::Figures);
    // A mistake in a field that is not wanted is not noticed.
    assert!(if whole { figures.len() == hits.len() } else { figures.len() >= hits.len() });
    for encoding in ["gob", "json", "csv"] {
        let mut encoder = Encoder::named(encoding).unwrap();
        let mut out = Vec::new();
        let written = hits.iter().filter(|hit| encoder.write(hit, &mut out).is_ok()).count();
        let (read, whole) = read(&out, Fields::Figures);
        assert!(whole && read.len() == written, "{encoding}");
    }
});
