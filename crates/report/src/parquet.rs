//! Samples as a Parquet file: one row per arrival.
//!
//! Rows are written in groups of [`GROUP`], each sorted by planned instant, so that memory is bounded and
//! times, which are written as differences, take few bytes. A group is also what is read at once.
//!
//! # Layout
//! - `read`: reads such a file back

mod read;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use plimsoll_measure::samples::{Block, Counted, Header, Sample};
use plimsoll_measure::{Listed, WallClock};
pub use read::{ParquetReader, ReadError};
use std::io::Write;
use std::sync::Arc;

/// Rows per group; a group takes about 25 MiB while it is written.
const GROUP: usize = 1 << 17;

/// The columns. Times are in nanoseconds; `scheduled_at` counts from the start of the run's clock.
const SCHEMA: &str = "message samples {
  required int64 scheduled_at;
  required int64 lag;
  required int64 wait;
  required int64 latency;
  optional int64 service_time;
  optional int64 ttfb;
  required binary outcome (STRING);
  optional binary fault (STRING);
  optional int32 status (INTEGER(16, true));
  optional int64 rpc_code;
  required int64 bytes_in;
  required int64 bytes_out;
  required binary target (STRING);
  required binary stream (STRING);
  required boolean sent;
  required int32 worker;
  optional int64 connection;
  required int32 second;
  optional int64 open_for;
  optional int64 messages;
}";

/// Columns of few different values, written as a dictionary and references to it.
const DICTIONARY: [&str; 12] = [
    "outcome",
    "fault",
    "status",
    "rpc_code",
    "bytes_in",
    "bytes_out",
    "target",
    "stream",
    "worker",
    "connection",
    "second",
    "messages",
];

/// The `outcome` of arrivals without an error.
const OK: &str = "ok";

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where the arrival was counted.
    pub counted: Counted,
    /// Its record.
    pub sample: Sample,
}

/// Writes samples as Parquet.
pub struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    rows: Vec<Row>,
    written: u64,
    names: Names,
}

/// Names as they are written.
struct Names {
    targets: Vec<ByteArray>,
    streams: Vec<ByteArray>,
    ok: ByteArray,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Begins a file. Its key-value metadata has the version and the start of the run.
    ///
    /// # Errors
    /// If writing fails.
    pub fn new(out: W, header: &Header) -> Result<ParquetWriter<W>, ParquetError> {
        let started_at = WallClock { unix_ns: header.started_at_unix_ns }.rfc3339();
        let metadata = [("schema", header.schema.clone()), ("started_at", started_at)]
            .map(|(key, value)| KeyValue::new(format!("plimsoll.{key}"), value));
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_dictionary_enabled(false)
            .set_created_by(concat!("plimsoll ", env!("CARGO_PKG_VERSION")).into())
            .set_key_value_metadata(Some(metadata.into()));
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        for column in schema.get_fields().iter().map(|field| field.name()) {
            properties = match column {
                "sent" => properties.set_column_encoding(column.into(), Encoding::RLE),
                _ if DICTIONARY.contains(&column) => {
                    properties.set_column_dictionary_enabled(column.into(), true)
                }
                _ => properties.set_column_encoding(column.into(), Encoding::DELTA_BINARY_PACKED),
            };
        }
        let file = SerializedFileWriter::new(out, schema, Arc::new(properties.build()))?;
        let bytes = |text: &String| ByteArray::from(text.as_str());
        let names = Names {
            targets: header.targets.iter().map(|own| bytes(&own.target)).collect(),
            streams: header.targets.iter().map(|own| bytes(&own.stream)).collect(),
            ok: OK.into(),
        };
        Ok(ParquetWriter { file, rows: Vec::with_capacity(GROUP), written: 0, names })
    }

    /// Adds a block.
    ///
    /// # Errors
    /// If writing fails.
    pub fn add(&mut self, block: &Block) -> Result<(), ParquetError> {
        let counted = block.counted;
        block.samples.iter().try_for_each(|own| self.add_row(Row { counted, sample: *own }))
    }

    /// Adds a row.
    ///
    /// # Errors
    /// If writing fails.
    pub fn add_row(&mut self, row: Row) -> Result<(), ParquetError> {
        self.rows.push(row);
        if self.rows.len() < GROUP { Ok(()) } else { self.write_group() }
    }

    /// Completes the file. Returns the number of rows, and the output.
    ///
    /// # Errors
    /// If writing fails.
    pub fn finish(mut self) -> Result<(u64, W), ParquetError> {
        self.write_group()?;
        Ok((self.written, self.file.into_inner()?))
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.rows.sort_by_key(|row| row.sample.scheduled_at);
        let group = Group { writer: self.file.next_row_group()?, rows: &self.rows };
        group.write(&self.names)?;
        self.written += self.rows.len() as u64;
        self.rows.clear();
        Ok(())
    }
}

/// A group that is being written, column by column.
struct Group<'a, W: Write + Send> {
    writer: SerializedRowGroupWriter<'a, W>,
    rows: &'a [Row],
}

impl<W: Write + Send> Group<'_, W> {
    /// Writes all columns, in the order of [`SCHEMA`].
    fn write(mut self, names: &Names) -> Result<(), ParquetError> {
        let target = |row: &Row| row.sample.kind.target as usize;
        self.required::<Int64Type>(|row| row.sample.scheduled_at.0 as i64)?;
        self.required::<Int64Type>(|row| row.sample.lag.0 as i64)?;
        self.required::<Int64Type>(|row| row.sample.wait.0 as i64)?;
        self.required::<Int64Type>(|row| row.sample.latency().0 as i64)?;
        self.optional::<Int64Type>(|row| row.sample.service_time().map(|span| span.0 as i64))?;
        self.optional::<Int64Type>(|row| row.sample.ttfb.map(|span| span.0 as i64))?;
        self.required::<ByteArrayType>(|row| match row.sample.kind.error {
            Some(class) => class.name().into(),
            None => names.ok.clone(),
        })?;
        let fault = |row: &Row| row.sample.kind.fault.map(|fault| fault.name().into());
        self.optional::<ByteArrayType>(fault)?;
        self.optional::<Int32Type>(|row| row.sample.kind.status.map(i32::from))?;
        self.optional::<Int64Type>(|row| row.sample.kind.rpc_code)?;
        self.required::<Int64Type>(|row| row.sample.bytes_in as i64)?;
        self.required::<Int64Type>(|row| row.sample.bytes_out as i64)?;
        self.required::<ByteArrayType>(|row| names.targets[target(row)].clone())?;
        self.required::<ByteArrayType>(|row| names.streams[target(row)].clone())?;
        self.required::<parquet::data_type::BoolType>(|row| row.sample.kind.sent)?;
        self.required::<Int32Type>(|row| row.counted.worker.into())?;
        self.optional::<Int64Type>(|row| row.sample.connection.map(i64::from))?;
        self.required::<Int32Type>(|row| row.counted.second as i32)?;
        self.optional::<Int64Type>(|row| row.sample.stayed.map(|own| own.open_for.0 as i64))?;
        self.optional::<Int64Type>(|row| row.sample.stayed.map(|own| own.messages.into()))?;
        self.writer.close()?;
        Ok(())
    }

    fn required<T: DataType>(&mut self, value: impl Fn(&Row) -> T::T) -> Result<(), ParquetError> {
        let values: Vec<T::T> = self.rows.iter().map(value).collect();
        self.column::<T>(&values, None)
    }

    fn optional<T: DataType>(
        &mut self,
        value: impl Fn(&Row) -> Option<T::T>,
    ) -> Result<(), ParquetError> {
        let mut levels = Vec::with_capacity(self.rows.len());
        let values = self.rows.iter().filter_map(|row| {
            let value = value(row);
            levels.push(i16::from(value.is_some()));
            value
        });
        let values: Vec<T::T> = values.collect();
        self.column::<T>(&values, Some(&levels))
    }

    fn column<T: DataType>(
        &mut self,
        values: &[T::T],
        levels: Option<&[i16]>,
    ) -> Result<(), ParquetError> {
        let mut column = self.writer.next_column()?.expect("the schema has a column for each call");
        column.typed::<T>().write_batch(values, levels, None)?;
        column.close()
    }
}

#[cfg(test)]
mod tests;
