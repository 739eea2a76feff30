//! What is written is read back, and any damage ends the reading where it is.

use super::*;
use proptest::prelude::*;

fn header() -> Header {
    let target = |name: &str| SampledTarget { target: name.into(), stream: "s".into() };
    Header::new(WallClock { unix_ns: 7 }, vec![target("a"), target("b")])
}

fn any_span() -> impl Strategy<Value = Nanos> {
    prop_oneof![Just(Nanos::ZERO), (0..NONE).prop_map(Nanos), (0u64..1_000_000).prop_map(Nanos)]
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let class = proptest::sample::select(ErrorClass::ALL.to_vec());
    let fault = proptest::sample::select(Fault::ALL.to_vec());
    let kind = (
        0u32..2,
        proptest::option::of(class),
        proptest::option::of(fault),
        proptest::option::of(100u16..1000),
        proptest::option::of(prop_oneof![any::<i64>(), Just(-32000)]),
        any::<bool>(),
    );
    let spans = (0u64..1 << 40, any_span(), any_span(), any_span());
    let rest = (
        proptest::option::of(any_span()),
        0..NONE,
        0u64..10_000,
        proptest::option::of(0..u32::MAX),
    );
    let stayed = prop_oneof![
        3 => Just(None),
        1 => (any_span(), any::<u32>())
            .prop_map(|(open_for, messages)| Some(Stayed { open_for, messages })),
    ];
    (spans, rest, kind, stayed).prop_map(|((at, lag, wait, flight), rest, kind, stayed)| Sample {
        stayed,
        scheduled_at: Nanos(at),
        lag,
        wait,
        flight,
        ttfb: rest.0,
        bytes_in: rest.1,
        bytes_out: rest.2,
        connection: rest.3,
        kind: Kind {
            target: kind.0,
            error: kind.1,
            fault: kind.2,
            status: kind.3,
            rpc_code: kind.4,
            sent: kind.5,
        },
    })
}

fn any_blocks() -> impl Strategy<Value = Vec<Block>> {
    let block = (0u16..64, any::<u32>(), proptest::collection::vec(any_sample(), 0..40));
    let block = block.prop_map(|(worker, second, samples)| Block {
        counted: Counted { worker, second },
        samples,
    });
    proptest::collection::vec(block, 0..6)
}

/// A file of these blocks, and where each ends.
fn file(blocks: &[Block]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut encoder) = (header().to_line().into_bytes(), Encoder::default());
    let ends = blocks.iter().map(|block| {
        encoder.encode(block.counted, &block.samples, &mut bytes);
        bytes.len()
    });
    let ends = ends.collect();
    (bytes, ends)
}

fn read(bytes: &[u8]) -> (Vec<Block>, Option<String>) {
    let (found, mut reader) = Reader::new(bytes).unwrap();
    assert_eq!(found, header());
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        blocks.push(block);
    }
    (blocks, reader.cut().map(String::from))
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(blocks in any_blocks()) {
        prop_assert_eq!(read(&file(&blocks).0), (blocks, None));
    }

    #[test]
    fn any_prefix_gives_its_whole_blocks(blocks in any_blocks(), cut: proptest::sample::Index) {
        let (bytes, ends) = file(&blocks);
        let cut = cut.index(bytes.len() + 1);
        let start = header().to_line().len();
        if cut < start {
            prop_assert!(Reader::new(&bytes[..cut]).is_err());
        } else {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let (found, why) = read(&bytes[..cut]);
            prop_assert_eq!(found, &blocks[..whole]);
            prop_assert_eq!(why.is_none(), cut == start || ends.contains(&cut));
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_reading_at_its_block(
        blocks in any_blocks(),
        place: proptest::sample::Index,
        bit in 0u8..8,
    ) {
        let (mut bytes, ends) = file(&blocks);
        let start = header().to_line().len();
        prop_assume!(bytes.len() > start);
        let place = start + place.index(bytes.len() - start);
        bytes[place] ^= 1 << bit;
        let whole = ends.iter().filter(|end| **end <= place).count();
        let (found, why) = read(&bytes);
        prop_assert_eq!(found, &blocks[..whole]);
        prop_assert!(why.is_some());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>, with_header: bool) {
        let mut file = if with_header { header().to_line().into_bytes() } else { Vec::new() };
        file.extend(bytes);
        if let Ok((_, mut reader)) = Reader::new(file.as_slice()) {
            while reader.next_block().unwrap().is_some() {}
        }
    }
}

#[test]
fn a_record_has_47_bytes_and_shared_values_are_written_once() {
    let kind = Kind {
        target: 1,
        error: Some(ErrorClass::RpcError),
        fault: None,
        status: Some(200),
        rpc_code: Some(-32000),
        sent: true,
    };
    let ns = Nanos;
    let sample = Sample {
        scheduled_at: ns(5),
        lag: ns(1),
        wait: ns(2),
        flight: ns(40),
        ttfb: Some(ns(30)),
        bytes_in: 90,
        bytes_out: 120,
        connection: Some(3),
        kind,
        stayed: None,
    };
    assert_eq!((sample.latency(), sample.service_time()), (ns(43), Some(ns(40))));
    let mut out = Vec::new();
    Encoder::default().encode(Counted::default(), &vec![sample; BLOCK_MAX], &mut out);
    assert_eq!(out.len(), PREFIX + FIXED + KIND + BLOCK_MAX * RECORD);
}

#[test]
fn files_of_other_kinds_are_refused() {
    let check = |bytes: &[u8], why: &str| match Reader::new(bytes) {
        Ok(_) => panic!("{why}"),
        Err(error) => assert!(error.to_string().contains(why), "{error}"),
    };
    check(b"", "incomplete");
    check(b"PAR1\n", "not readable");
    let newer = Header { schema: "plimsoll/samples/2".into(), ..header() }.to_line();
    check(newer.as_bytes(), "expected \"plimsoll/samples/1\"");
}
