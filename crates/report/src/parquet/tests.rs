//! Rows written and read back, and damaged files.

use super::*;
use bytes::Bytes;
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataWriter};
use parquet::file::reader::{FileReader, SerializedFileReader};
use plimsoll_measure::samples::{Kind, SampledTarget, Stayed};
use plimsoll_measure::{ErrorClass, Fault, Nanos};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

fn header() -> Header {
    let target =
        |name: &str, stream: &str| SampledTarget { target: name.into(), stream: stream.into() };
    Header::new(
        WallClock { unix_ns: 7 },
        vec![target("a", "s"), target("a", "t"), target("ü", "s")],
    )
}

fn any_row() -> impl Strategy<Value = Row> {
    let span = || (0u64..1 << 48).prop_map(Nanos);
    let kind = (
        0u32..3,
        proptest::option::of(proptest::sample::select(ErrorClass::ALL.to_vec())),
        proptest::option::of(proptest::sample::select(Fault::ALL.to_vec())),
        proptest::option::of(100u16..1000),
        proptest::option::of(any::<i64>()),
        any::<bool>(),
    );
    let rest = (proptest::option::of(span()), any::<u32>(), any::<u32>());
    let counted = (any::<u16>(), 0u32..1 << 31, proptest::option::of(any::<u32>()));
    let stayed = (span(), any::<u32>());
    let stayed = stayed.prop_map(|(open_for, messages)| Stayed { open_for, messages });
    let more = (counted, proptest::option::of(stayed));
    (span(), span(), span(), span(), kind, rest, more).prop_map(
        |(at, lag, wait, flight, kind, (ttfb, bytes_in, bytes_out), (counted, stayed))| {
            let (worker, second, serial) = counted;
            Row {
                counted: Counted { worker, second },
                sample: Sample {
                    scheduled_at: at,
                    lag,
                    wait,
                    flight,
                    ttfb,
                    bytes_in: bytes_in.into(),
                    bytes_out: bytes_out.into(),
                    connection: serial,
                    kind: Kind {
                        target: kind.0,
                        error: kind.1,
                        fault: kind.2,
                        status: kind.3,
                        rpc_code: kind.4,
                        sent: kind.5,
                    },
                    stayed,
                },
            }
        },
    )
}

fn written(rows: &[Row]) -> Bytes {
    let mut writer = ParquetWriter::new(Vec::new(), &header()).unwrap();
    rows.iter().for_each(|row| writer.add_row(*row).unwrap());
    let (count, bytes) = writer.finish().unwrap();
    assert_eq!(count, rows.len() as u64);
    bytes.into()
}

fn read(bytes: Bytes) -> Result<Vec<Row>, ReadError> {
    let mut reader = ParquetReader::new(bytes, &header().targets)?;
    let mut all = Vec::new();
    while let Some(rows) = reader.next_rows()? {
        all.extend(rows);
    }
    assert_eq!((reader.len(), reader.is_empty()), (all.len() as u64, all.is_empty()));
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back(mut rows in proptest::collection::vec(any_row(), 0..60)) {
        let bytes = written(&rows);
        rows.sort_by_key(|row| row.sample.scheduled_at);
        prop_assert_eq!(read(bytes).unwrap(), rows);
    }

    #[test]
    fn a_damaged_file_is_an_error_or_is_read(
        rows in proptest::collection::vec(any_row(), 1..9),
        cut: proptest::sample::Index,
        flip: proptest::sample::Index,
    ) {
        let whole = written(&rows);
        prop_assert!(read(whole.slice(..cut.index(whole.len()))).is_err());
        let mut flipped = whole.to_vec();
        flipped[flip.index(whole.len())] ^= 1;
        let _ = read(flipped.into());
    }
}

#[test]
fn rows_of_many_groups_are_all_written() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let row = any_row().new_tree(&mut runner).unwrap().current();
    let rows: Vec<Row> = (0..GROUP as u64 + 10)
        .map(|at| Row { sample: Sample { scheduled_at: Nanos(at), ..row.sample }, ..row })
        .collect();
    assert!(read(written(&rows)).unwrap() == rows);
}

/// Sizes are checked before memory is reserved for them.
#[test]
fn impossible_numbers_of_rows_are_errors() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let row = any_row().new_tree(&mut runner).unwrap().current();
    let whole = written(&[row]);
    let metadata = |rows: i64, of_file: i64| {
        let reader = SerializedFileReader::new(whole.clone()).unwrap();
        let (of, groups) = (reader.metadata().file_metadata(), reader.metadata().row_groups());
        let of = FileMetaData::new(
            of.version(),
            of_file,
            None,
            of.key_value_metadata().cloned(),
            of.schema_descr_ptr(),
            None,
        );
        let groups = groups
            .iter()
            .map(|group| group.clone().into_builder().set_num_rows(rows).build().unwrap());
        ParquetMetaData::new(of, groups.collect())
    };
    let check = |rows: i64, why: &str| {
        let mut bytes = whole.to_vec();
        ParquetMetaDataWriter::new(&mut bytes, &metadata(rows, rows)).finish().unwrap();
        match read(bytes.into()) {
            Ok(rows) => assert_eq!((rows, why), (vec![row], "")),
            Err(error) => assert!(error.to_string().contains(why) && !why.is_empty(), "{error}"),
        }
    };
    check(1, "");
    check(1 << 36, "a group of 68719476736 rows; groups have at most 1048576");
    check(i64::MAX, "a group of 9223372036854775807 rows");
    check(-1, "a group of -1 rows");
    check(9, " values");
    let error = read::check_sizes(&metadata(1, 2)).unwrap_err().to_string();
    assert_eq!(error, "its groups have 1 rows, but it says that there are 2");
}
