//! Numbers and type descriptions of a gob stream, and skipping values of any type.

use super::id;
use std::collections::HashMap;

/// Types defined in a stream at most. Vegeta's has four.
const TYPES_MAX: usize = 256;
/// Fields of a type at most. Vegeta's has twelve.
const FIELDS_MAX: u64 = 256;
/// Bytes of a field's name at most.
const NAME_MAX: usize = 256;
/// How deeply types may be nested.
const DEPTH_MAX: usize = 16;

/// Why a message cannot be read. The place is the cursor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    #[error("a value reaches beyond the end of its message")]
    End,
    #[error("a number of more than 8 bytes")]
    Number,
    #[error("a field out of order")]
    Field,
    #[error("a type that is not defined")]
    Undefined,
    #[error("a type description that gob does not have")]
    Description,
    #[error("more types or fields, or longer names, than are read")]
    TooMany,
    #[error("a value of a type that cannot be skipped")]
    Unskippable,
    #[error("bytes after the end of a value")]
    Trailing,
    #[error("a value of another Go type than vegeta's Result")]
    Foreign,
    #[error("a status code above 65535")]
    Code,
    #[error("not a time in Go's binary form")]
    Time,
}

/// Whether a message of a gob stream may start with these two bytes. Types of a stream have ids from
/// 64 on, so that an id takes several bytes, the first of which is 0xf8 or more. No text starts so.
pub(crate) fn is_start(first: u8, second: Option<u8>) -> bool {
    first >= 0xf8 || (first < 0x80 && second.is_some_and(|second| second >= 0xf8))
}

/// The unread bytes of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn uint(&mut self) -> Result<u64, Bad> {
        let (first, rest) = self.0.split_first().ok_or(Bad::End)?;
        self.0 = rest;
        if *first < 0x80 {
            return Ok((*first).into());
        }
        let length = usize::from(first.wrapping_neg());
        if length > 8 {
            return Err(Bad::Number);
        }
        let bytes = self.take(length)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    pub(super) fn int(&mut self) -> Result<i64, Bad> {
        let value = self.uint()?;
        let magnitude = (value >> 1) as i64;
        Ok(if value & 1 == 1 { !magnitude } else { magnitude })
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Bad::End)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A string or a byte slice.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Bad> {
        let length = self.uint()?;
        self.take(usize::try_from(length).map_err(|_| Bad::End)?)
    }

    /// The number of the next field, or `None` after the last. `field` is the one before, from −1.
    pub(super) fn next_field(&mut self, field: &mut i64) -> Result<Option<usize>, Bad> {
        let delta = self.uint()?;
        if delta == 0 {
            return Ok(None);
        }
        if delta > FIELDS_MAX {
            return Err(Bad::Field);
        }
        *field += delta as i64;
        Ok(Some(*field as usize))
    }

    /// Passes every field of a struct to `read`.
    fn fields(
        &mut self,
        mut read: impl FnMut(usize, &mut Cursor<'a>) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        let mut field = -1;
        while let Some(number) = self.next_field(&mut field)? {
            read(number, self)?;
        }
        Ok(())
    }
}

/// The description of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Array(i64),
    Slice(i64),
    Map(i64, i64),
    /// The fields' names and types.
    Struct(Vec<(Vec<u8>, i64)>),
    /// A value that encodes itself, as bytes.
    Opaque,
}

/// The types that a stream has defined.
#[derive(Debug, Default)]
pub(super) struct Types(HashMap<i64, Type>);

impl Types {
    /// The description of a type that the stream defined.
    pub(super) fn get(&self, id: i64) -> Option<&Type> {
        self.0.get(&id)
    }

    /// Reads the definition of a type. One with the same id is replaced.
    pub(super) fn define(&mut self, id: i64, body: &mut Cursor<'_>) -> Result<(), Bad> {
        let mut defined = None;
        body.fields(|number, body| {
            let kind = match number {
                0 => Type::Array(0),
                1 => Type::Slice(0),
                2 => Type::Struct(Vec::new()),
                3 => Type::Map(0, 0),
                4..=6 => Type::Opaque,
                _ => return Err(Bad::Description),
            };
            defined = Some(describe(kind, body)?);
            Ok(())
        })?;
        self.0.insert(id, defined.ok_or(Bad::Description)?);
        if self.0.len() > TYPES_MAX { Err(Bad::TooMany) } else { Ok(()) }
    }

    /// Passes over a value. Every value takes at least a byte, so that the time is bounded.
    pub(super) fn skip(&self, id: i64, value: &mut Cursor<'_>) -> Result<(), Bad> {
        self.skip_nested(id, value, 0)
    }

    fn skip_nested(&self, id: i64, value: &mut Cursor<'_>, depth: usize) -> Result<(), Bad> {
        match id {
            id::BOOL | id::INT | id::UINT | id::FLOAT => value.uint().map(drop),
            id::COMPLEX => value.uint().and_then(|_| value.uint()).map(drop),
            id::BYTES | id::STRING => value.bytes().map(drop),
            _ if depth == DEPTH_MAX => Err(Bad::Unskippable),
            _ => match self.get(id).ok_or(Bad::Undefined)? {
                Type::Opaque => value.bytes().map(drop),
                Type::Array(element) | Type::Slice(element) => {
                    let count = value.uint()?;
                    (0..count).try_for_each(|_| self.skip_nested(*element, value, depth + 1))
                }
                Type::Map(key, element) => {
                    let count = value.uint()?;
                    (0..count).try_for_each(|_| {
                        self.skip_nested(*key, value, depth + 1)?;
                        self.skip_nested(*element, value, depth + 1)
                    })
                }
                Type::Struct(fields) => value.fields(|number, value| {
                    let (_, id) = fields.get(number).ok_or(Bad::Field)?;
                    self.skip_nested(*id, value, depth + 1)
                }),
            },
        }
    }
}

/// Reads the rest of a description: field 0 is its name and id.
fn describe(mut kind: Type, body: &mut Cursor<'_>) -> Result<Type, Bad> {
    body.fields(|number, body| match (&mut kind, number) {
        (_, 0) => body.fields(|number, body| match number {
            0 => body.bytes().map(drop),
            1 => body.int().map(drop),
            _ => Err(Bad::Description),
        }),
        (Type::Array(element) | Type::Slice(element) | Type::Map(element, _), 1) => {
            *element = body.int()?;
            Ok(())
        }
        // An array's length.
        (Type::Array(_), 2) => body.int().map(drop),
        (Type::Map(_, element), 2) => {
            *element = body.int()?;
            Ok(())
        }
        (Type::Struct(fields), 1) => {
            let count = body.uint()?;
            if count > FIELDS_MAX {
                return Err(Bad::TooMany);
            }
            for _ in 0..count {
                let mut field = (Vec::new(), 0);
                body.fields(|number, body| {
                    match number {
                        0 => field.0 = body.bytes()?.to_vec(),
                        1 => field.1 = body.int()?,
                        _ => return Err(Bad::Description),
                    }
                    Ok(())
                })?;
                if field.0.len() > NAME_MAX {
                    return Err(Bad::TooMany);
                }
                fields.push(field);
            }
            Ok(())
        }
        _ => Err(Bad::Description),
    })?;
    Ok(kind)
}
