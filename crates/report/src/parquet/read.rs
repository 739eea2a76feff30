//! Reads a file of samples back, one row group at a time.

use super::{GROUP, OK, Row};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, RowGroupReader, SerializedFileReader};
use plimsoll_measure::samples::{Counted, Kind, Sample, SampledTarget, Stayed};
use plimsoll_measure::{ErrorClass, Fault, Listed, Nanos};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The most rows of a group that is read, eight times those that are written: other programs that rewrite
/// the file choose other sizes.
const GROUP_MAX: usize = 8 * GROUP;

/// Why samples cannot be read from a Parquet file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is damaged, or not a Parquet file.
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    /// It does not have the columns of samples, or has values of another version.
    #[error("{0}")]
    Content(String),
}

/// The index of each target, by the names of its stream and of itself.
type Targets = HashMap<Vec<u8>, HashMap<Vec<u8>, u32>>;

/// Reads a file of samples.
pub struct ParquetReader {
    file: Box<dyn FileReader>,
    columns: HashMap<String, usize>,
    targets: Targets,
    next: usize,
}

impl ParquetReader {
    /// Opens a file. `targets` are those of its run, by index.
    ///
    /// # Errors
    /// If it is not a Parquet file of samples.
    pub fn new<R: ChunkReader + 'static>(
        file: R,
        targets: &[SampledTarget],
    ) -> Result<ParquetReader, ReadError> {
        let file = SerializedFileReader::new(file)?;
        check_sizes(file.metadata())?;
        let schema = file.metadata().file_metadata().schema_descr();
        let columns = schema.columns().iter().enumerate();
        let columns = columns.map(|(place, column)| (column.name().to_string(), place)).collect();
        let mut by_name = Targets::new();
        for (index, SampledTarget { target, stream }) in (0u32..).zip(targets) {
            let stream = by_name.entry(stream.as_bytes().into()).or_default();
            stream.insert(target.as_bytes().into(), index);
        }
        let targets = by_name;
        Ok(ParquetReader { file: Box::new(file), columns, targets, next: 0 })
    }

    /// The number of rows.
    pub fn len(&self) -> u64 {
        self.file.metadata().file_metadata().num_rows() as u64
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next rows; `None` at the end.
    ///
    /// # Errors
    /// If the file is damaged, or has a name that this version or its run does not know. The library panics
    /// on some damaged files; that is caught, and the panic hook runs.
    pub fn next_rows(&mut self) -> Result<Option<Vec<Row>>, ReadError> {
        if self.next >= self.file.num_row_groups() {
            return Ok(None);
        }
        let next = self.next_group(|columns, targets| columns.rows(targets))?;
        Ok(Some(next))
    }

    /// Passes what a narrowed report needs of each arrival to `each`: the second in which it was counted,
    /// and a sample that has only its target, lag, wait, status and code.
    ///
    /// # Errors
    /// As [`ParquetReader::next_rows`].
    pub fn for_each_detail(&mut self, mut each: impl FnMut(u32, &Sample)) -> Result<(), ReadError> {
        while self.next < self.file.num_row_groups() {
            self.next_group(|columns, targets| columns.details(targets, &mut each))?;
        }
        Ok(())
    }

    fn next_group<T>(
        &mut self,
        read: impl FnOnce(&Columns<'_>, &Targets) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let read = catch_unwind(AssertUnwindSafe(|| {
            let group = self.file.get_row_group(self.next)?;
            let columns = Columns { group: group.as_ref(), places: &self.columns };
            read(&columns, &self.targets)
        }));
        self.next += 1;
        read.unwrap_or_else(|_| Err(ReadError::Content("the file is damaged".into())))
    }
}

/// The columns of a row group.
struct Columns<'a> {
    group: &'a dyn RowGroupReader,
    places: &'a HashMap<String, usize>,
}

impl Columns<'_> {
    fn rows(&self, targets: &Targets) -> Result<Vec<Row>, ReadError> {
        let span = |name| self.required::<Int64Type>(name);
        let (scheduled_at, lag, wait) = (span("scheduled_at")?, span("lag")?, span("wait")?);
        let (latency, ttfb) = (span("latency")?, self.optional::<Int64Type>("ttfb")?);
        let (bytes_in, bytes_out) = (span("bytes_in")?, span("bytes_out")?);
        let (target, stream) = (self.texts("target")?, self.texts("stream")?);
        let (outcome, fault) = (self.texts("outcome")?, self.optional::<ByteArrayType>("fault")?);
        let status = self.optional::<Int32Type>("status")?;
        let rpc_code = self.optional::<Int64Type>("rpc_code")?;
        let sent = self.required::<BoolType>("sent")?;
        let (worker, second) =
            (self.required::<Int32Type>("worker")?, self.required::<Int32Type>("second")?);
        let connection = self.optional::<Int64Type>("connection")?;
        // Files of earlier versions do not have these columns.
        let later = |name| self.places.contains_key(name).then(|| self.optional::<Int64Type>(name));
        let (open_for, messages) = (later("open_for").transpose()?, later("messages").transpose()?);
        let nanos = |value: i64| Nanos(value as u64);
        let row = |place: usize| {
            let (lag, wait) = (nanos(lag[place]), nanos(wait[place]));
            let kind = Kind {
                target: index_of(targets, &stream[place], &target[place])?,
                error: class(&outcome[place])?,
                // A fault only explains: one that a newer version knows is left out.
                fault: fault[place].as_ref().and_then(|name| Fault::from_name(text(name))),
                status: status[place].map(|status| status as u16),
                rpc_code: rpc_code[place],
                sent: sent[place],
            };
            let sample = Sample {
                scheduled_at: nanos(scheduled_at[place]),
                lag,
                wait,
                flight: nanos(latency[place]) - lag - wait,
                ttfb: ttfb[place].map(nanos),
                bytes_in: bytes_in[place] as u64,
                bytes_out: bytes_out[place] as u64,
                connection: connection[place].map(|serial| serial as u32),
                kind,
                stayed: open_for.as_ref().zip(messages.as_ref()).and_then(
                    |(open_for, messages)| {
                        let open_for = nanos(open_for[place]?);
                        Some(Stayed { open_for, messages: messages[place]? as u32 })
                    },
                ),
            };
            let counted = Counted { worker: worker[place] as u16, second: second[place] as u32 };
            Ok(Row { counted, sample })
        };
        (0..scheduled_at.len()).map(row).collect()
    }

    fn details(
        &self,
        targets: &Targets,
        each: &mut impl FnMut(u32, &Sample),
    ) -> Result<(), ReadError> {
        let (lag, wait) = (self.required::<Int64Type>("lag")?, self.required::<Int64Type>("wait")?);
        let (target, stream) = (self.texts("target")?, self.texts("stream")?);
        let status = self.optional::<Int32Type>("status")?;
        let rpc_code = self.optional::<Int64Type>("rpc_code")?;
        let second = self.required::<Int32Type>("second")?;
        for place in 0..lag.len() {
            let kind = Kind {
                target: index_of(targets, &stream[place], &target[place])?,
                error: None,
                fault: None,
                status: status[place].map(|status| status as u16),
                rpc_code: rpc_code[place],
                sent: true,
            };
            let sample = Sample {
                scheduled_at: Nanos::ZERO,
                lag: Nanos(lag[place] as u64),
                wait: Nanos(wait[place] as u64),
                flight: Nanos::ZERO,
                ttfb: None,
                bytes_in: 0,
                bytes_out: 0,
                connection: None,
                kind,
                stayed: None,
            };
            each(second[place] as u32, &sample);
        }
        Ok(())
    }

    fn texts(&self, name: &str) -> Result<Vec<ByteArray>, ReadError> {
        self.required::<ByteArrayType>(name)
    }

    fn required<T: DataType>(&self, name: &str) -> Result<Vec<T::T>, ReadError> {
        let values = self.optional::<T>(name)?;
        let all: Option<Vec<T::T>> = values.into_iter().collect();
        all.ok_or_else(|| ReadError::Content(format!("the column \"{name}\" has empty values")))
    }

    fn optional<T: DataType>(&self, name: &str) -> Result<Vec<Option<T::T>>, ReadError> {
        let missing = || ReadError::Content(format!("there is no column \"{name}\""));
        let place = *self.places.get(name).ok_or_else(missing)?;
        let column = self.group.metadata().column(place).column_descr_ptr();
        if column.physical_type() != T::get_physical_type() {
            let (own, type_) = (column.physical_type(), T::get_physical_type());
            let why = format!("the column \"{name}\" is of the type {own}, not {type_}");
            return Err(ReadError::Content(why));
        }
        let rows = self.group.metadata().num_rows() as usize;
        let mut reader = get_typed_column_reader::<T>(self.group.get_column_reader(place)?);
        let (mut values, mut levels) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let optional = column.max_def_level() > 0;
        let mut read = 0;
        while read < rows {
            let levels = optional.then_some(&mut levels);
            let (records, ..) = reader.read_records(rows - read, levels, None, &mut values)?;
            if records == 0 {
                let why = format!("the column \"{name}\" has {read} of {rows} values");
                return Err(ReadError::Content(why));
            }
            read += records;
        }
        if !optional {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(levels.iter().map(|level| if *level > 0 { values.next() } else { None }).collect())
    }
}

/// Memory is reserved for the rows that a group has, so their number must be possible.
pub(super) fn check_sizes(metadata: &ParquetMetaData) -> Result<(), ReadError> {
    let mut sum = 0;
    for rows in metadata.row_groups().iter().map(|group| group.num_rows()) {
        let known = usize::try_from(rows).ok().filter(|rows| *rows <= GROUP_MAX);
        let Some(known) = known else {
            let why = format!("a group of {rows} rows; groups have at most {GROUP_MAX}");
            return Err(ReadError::Content(why));
        };
        sum += known as i64;
    }
    let rows = metadata.file_metadata().num_rows();
    if rows == sum {
        return Ok(());
    }
    Err(ReadError::Content(format!(
        "its groups have {sum} rows, but it says that there are {rows}"
    )))
}

fn index_of(targets: &Targets, stream: &ByteArray, target: &ByteArray) -> Result<u32, ReadError> {
    let index = targets.get(stream.data()).and_then(|own| own.get(target.data()));
    index.copied().ok_or_else(|| unknown("target", target))
}

fn text(bytes: &ByteArray) -> &str {
    bytes.as_utf8().unwrap_or("")
}

fn unknown(what: &str, name: &ByteArray) -> ReadError {
    ReadError::Content(format!("unknown {what} \"{}\"", text(name)))
}

fn class(outcome: &ByteArray) -> Result<Option<ErrorClass>, ReadError> {
    match text(outcome) {
        OK => Ok(None),
        name => match ErrorClass::from_name(name) {
            Some(class) => Ok(Some(class)),
            None => {
                let why = format!("unknown outcome \"{name}\", written by a newer version");
                Err(ReadError::Content(why))
            }
        },
    }
}
