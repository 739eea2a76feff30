//! Reads the messages of a gob stream into [`Hit`]s.

use super::id;
use super::types::{Bad, Cursor, Type, Types};
use crate::vegeta::{Duration, Fields, Headers, Hit, Timestamp};

/// The types of a stream, and how the fields of its values map to those of a [`Hit`].
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    types: Types,
    /// The type of the last value and its columns, until a type is defined.
    layout: Option<(i64, Vec<Column>)>,
}

/// A field of the stream's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Attack,
    Seq,
    Code,
    Timestamp,
    Latency,
    BytesOut,
    BytesIn,
    Error,
    Body,
    Method,
    Url,
    Headers,
    /// None of vegeta's, or one that is not needed, with its type.
    Other(i64),
}

/// The names of vegeta's fields in Go.
const NAMES: [(&[u8], Column); 12] = [
    (b"Attack", Column::Attack),
    (b"Seq", Column::Seq),
    (b"Code", Column::Code),
    (b"Timestamp", Column::Timestamp),
    (b"Latency", Column::Latency),
    (b"BytesOut", Column::BytesOut),
    (b"BytesIn", Column::BytesIn),
    (b"Error", Column::Error),
    (b"Body", Column::Body),
    (b"Method", Column::Method),
    (b"URL", Column::Url),
    (b"Headers", Column::Headers),
];

impl Decoder {
    /// Reads the length before a message. `None`: more bytes are needed.
    pub(crate) fn length(data: &[u8]) -> Result<Option<(u64, usize)>, Bad> {
        let mut cursor = Cursor(data);
        match cursor.uint() {
            Ok(length) => Ok(Some((length, data.len() - cursor.0.len()))),
            Err(Bad::End) => Ok(None),
            Err(bad) => Err(bad),
        }
    }

    /// Reads a message, without its length. Returns whether it was a value; a definition was not.
    /// An error comes with the number of bytes read before it.
    pub(crate) fn message(
        &mut self,
        message: &[u8],
        fields: Fields,
        hit: &mut Hit,
    ) -> Result<bool, (Bad, usize)> {
        let mut body = Cursor(message);
        let done = self.read(&mut body, fields, hit);
        let done =
            done.and_then(|value| if body.0.is_empty() { Ok(value) } else { Err(Bad::Trailing) });
        done.map_err(|bad| (bad, message.len() - body.0.len()))
    }

    fn read(&mut self, body: &mut Cursor<'_>, fields: Fields, hit: &mut Hit) -> Result<bool, Bad> {
        let id = body.int()?;
        if id < 0 {
            self.layout = None;
            self.types.define(id.checked_neg().ok_or(Bad::Undefined)?, body)?;
            return Ok(false);
        }
        if self.layout.as_ref().is_none_or(|(known, _)| *known != id) {
            self.layout = Some((id, self.columns(id, fields)?));
        }
        let (_, columns) = self.layout.as_ref().expect("set above");
        hit.clear();
        let mut field = -1;
        while let Some(number) = body.next_field(&mut field)? {
            let column = *columns.get(number).ok_or(Bad::Field)?;
            self.field(column, body, hit)?;
        }
        Ok(true)
    }

    /// Maps the fields of a type to those of a [`Hit`]. The types must be vegeta's, and at least one
    /// name must be known.
    fn columns(&self, id: i64, wanted: Fields) -> Result<Vec<Column>, Bad> {
        let Type::Struct(fields) = self.types.get(id).ok_or(Bad::Undefined)? else {
            return Err(Bad::Foreign);
        };
        let mut known = 0;
        let mut columns = Vec::with_capacity(fields.len());
        for (name, id) in fields {
            let Some((_, column)) = NAMES.iter().find(|(known, _)| known == name) else {
                columns.push(Column::Other(*id));
                continue;
            };
            if !self.is_type_of(*column, *id) {
                return Err(Bad::Foreign);
            }
            known += 1;
            let is_figure =
                !matches!(column, Column::Body | Column::Method | Column::Url | Column::Headers);
            columns.push(if is_figure || wanted == Fields::All {
                *column
            } else {
                Column::Other(*id)
            });
        }
        if known == 0 { Err(Bad::Foreign) } else { Ok(columns) }
    }

    fn is_type_of(&self, column: Column, type_id: i64) -> bool {
        match column {
            Column::Attack | Column::Error | Column::Method | Column::Url => type_id == id::STRING,
            Column::Seq | Column::Code | Column::BytesOut | Column::BytesIn => type_id == id::UINT,
            Column::Latency => type_id == id::INT,
            Column::Body => type_id == id::BYTES,
            Column::Timestamp => self.types.get(type_id) == Some(&Type::Opaque),
            Column::Headers => match self.types.get(type_id) {
                Some(Type::Map(id::STRING, values)) => {
                    self.types.get(*values) == Some(&Type::Slice(id::STRING))
                }
                _ => false,
            },
            Column::Other(_) => true,
        }
    }

    fn field(&self, column: Column, body: &mut Cursor<'_>, hit: &mut Hit) -> Result<(), Bad> {
        match column {
            Column::Attack => hit.attack.extend_from_slice(body.bytes()?),
            Column::Seq => hit.seq = body.uint()?,
            Column::Code => hit.code = body.uint()?.try_into().map_err(|_| Bad::Code)?,
            Column::Timestamp => {
                hit.timestamp = Timestamp::from_binary(body.bytes()?).map_err(|_| Bad::Time)?;
            }
            Column::Latency => hit.latency = Duration(body.int()?),
            Column::BytesOut => hit.bytes_out = body.uint()?,
            Column::BytesIn => hit.bytes_in = body.uint()?,
            Column::Error => hit.error.extend_from_slice(body.bytes()?),
            Column::Body => hit.body = Some(body.bytes()?.to_vec()),
            Column::Method => hit.method.extend_from_slice(body.bytes()?),
            Column::Url => hit.url.extend_from_slice(body.bytes()?),
            Column::Headers => hit.headers = Some(headers(body)?),
            Column::Other(id) => self.types.skip(id, body)?,
        }
        Ok(())
    }
}

fn headers(body: &mut Cursor<'_>) -> Result<Headers, Bad> {
    let count = body.uint()?;
    let header = |_| {
        let name = body.bytes()?.to_vec();
        let values = body.uint()?;
        let values = (0..values).map(|_| body.bytes().map(<[u8]>::to_vec));
        Ok((name, values.collect::<Result<_, _>>()?))
    };
    (0..count).map(header).collect()
}
