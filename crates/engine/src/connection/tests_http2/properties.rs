//! Properties over segments, windows and damaged bytes.

use super::session::{Frame, Session, bytes_of};
use super::*;
use proptest::prelude::*;

proptest! {
    /// Answers with padding, priorities, continued heads and bodies in parts are the same whatever the
    /// segments are.
    #[test]
    fn answers_do_not_depend_on_segments(
        answers in proptest::collection::vec(
            (0..3usize, proptest::collection::vec(0..3_000usize, 0..4), any::<bool>()), 1..8),
        segment in prop_oneof![1..30usize, 1..5_000usize],
        order in any::<u64>(),
    ) {
        let mut session = Session::new(3);
        let count = answers.len() as u32;
        (0..count).for_each(|arrival| session.start(arrival));
        session.flush();
        session.take();
        let mut parts: Vec<(u32, VecDeque<Vec<u8>>)> = Vec::new();
        let mut expected = Vec::new();
        for (at, (heads, lens, padded)) in answers.iter().enumerate() {
            let stream = 2 * at as u32 + 1;
            let (pad, padding): (u8, Vec<u8>) = if *padded { (flag::PADDED, vec![0; 9]) } else { (0, vec![]) };
            let front = if *padded { vec![9u8] } else { vec![] };
            let mut own = VecDeque::new();
            let mut head = Vec::new();
            let last = if *heads == 0 { flag::END_HEADERS } else { 0 };
            let block = [front.clone(), vec![0, 0, 0, 0, 1], vec![0x88], padding.clone()].concat();
            frame::put(&mut head, (kind::HEADERS, last | pad | flag::PRIORITY), stream, &block);
            for number in 1..=*heads {
                let flags = if number == *heads { flag::END_HEADERS } else { 0 };
                frame::put(&mut head, (kind::CONTINUATION, flags), stream, b"\x00\x01a\x01b");
            }
            own.push_back(head);
            for len in lens {
                let mut data = Vec::new();
                let payload = [front.clone(), vec![b'x'; *len], padding.clone()].concat();
                frame::put(&mut data, (kind::DATA, pad), stream, &payload);
                own.push_back(data);
            }
            let mut end = Vec::new();
            frame::put(&mut end, (kind::DATA, flag::END_STREAM), stream, b"");
            own.push_back(end);
            parts.push((stream, own));
            expected.push(format!("Answered {at} 200 {}", "x".repeat(lens.iter().sum())));
        }
        let mut bytes = Vec::new();
        let mut random = Key::new(order).sequence();
        while !parts.is_empty() {
            let at = random.below(parts.len() as u64) as usize;
            match parts[at].1.pop_front() {
                Some(part) => bytes.extend_from_slice(&part),
                None => _ = parts.remove(at),
            }
        }
        session.peer_bytes(&bytes, segment);
        let mut answered = session.take();
        answered.retain(|event| !event.starts_with("Began"));
        answered.sort();
        expected.sort();
        prop_assert_eq!(answered, expected);
        prop_assert_eq!(session.resources.bodies.budget.used(), 0);
    }

    /// Requests of any size arrive whole, whatever the windows and the kernel's buffer are.
    #[test]
    fn requests_do_not_depend_on_windows(
        len in prop_oneof![0..200usize, 60_000..70_000usize, 0..200_000usize],
        window in prop_oneof![1..100u32, 1..100_000u32],
        room in 1_000..200_000usize,
        count in 1..5u32,
    ) {
        let mut session = Session::begin(len);
        session.peer(&[Frame::Settings(vec![(setting::INITIAL_WINDOW_SIZE, window.max(len as u32 / 50))])]);
        session.wire.0.borrow_mut().room = room;
        (0..count).for_each(|arrival| session.start(arrival));
        session.flush();
        let (mut requests, mut heard) = (Requests::default(), Vec::new());
        let (mut got, mut ends) = (vec![0; count as usize], 0);
        for _ in 0..2_000 {
            let written = std::mem::take(&mut session.wire.0.borrow_mut().written);
            requests.read(&written, &mut heard);
            let mut opened = Vec::new();
            for heard in heard.drain(..) {
                match heard {
                    Heard::Data(stream, len) => {
                        got[stream as usize / 2] += len;
                        if len > 0 {
                            opened.extend([Frame::Window(0, len as u32), Frame::Window(stream, len as u32)]);
                        }
                    }
                    Heard::End(_) => ends += 1,
                    _ => {}
                }
            }
            if ends == count {
                break;
            }
            session.wire.0.borrow_mut().room = room;
            session.peer(&opened);
            session.run(Readiness { writable: true, ..Readiness::NONE });
        }
        prop_assert_eq!((ends, got), (count, vec![len; count as usize]));
    }
}

/// The seeds of the fuzz target, without its first byte and with settings first.
fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/http2");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    let seed = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        let (first, rest) = bytes.split_first().unwrap();
        let settings =
            if first & 0x80 == 0 { bytes_of(&[Frame::Settings(vec![])]) } else { vec![] };
        [&settings, rest].concat()
    };
    files.iter().map(seed).collect()
}

#[test]
fn seeds_do_not_depend_on_segments() {
    for seed in seeds() {
        let whole = fuzz::http2(&seed, seed.len());
        for segment in 1..60 {
            assert_eq!(fuzz::http2(&seed, segment), whole, "{segment}: {}", seed.escape_ascii());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Damaged and joined seeds: no panic, every exchange ends once, whatever the segments are.
    #[test]
    fn any_bytes_are_handled(
        first in any::<prop::sample::Index>(),
        second in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 0..6),
        segment in 1..40usize,
    ) {
        let seeds = seeds();
        let mut bytes = [first.get(&seeds).clone(), second.get(&seeds)[9.min(second.get(&seeds).len())..].to_vec()].concat();
        for (at, kind, value) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => _ = bytes.remove(at),
                _ => bytes.insert(at, value),
            }
            if bytes.is_empty() {
                bytes.push(value);
            }
        }
        let whole = fuzz::http2(&bytes, bytes.len());
        prop_assert_eq!(fuzz::http2(&bytes, segment), whole);
    }
}
