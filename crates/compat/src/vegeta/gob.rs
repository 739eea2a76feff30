//! Go's `encoding/gob`, for streams of the one type that vegeta records.
//!
//! A stream is a sequence of messages, each preceded by its length: definitions of types (a negative
//! id and a description) and values (the id of a type and its fields). Fields are matched by name, as
//! Go matches them: unknown ones are skipped, whatever their type, and missing ones are empty. Type
//! ids are only valid until they are defined again, which happens where files were concatenated.
//! Source: the documentation of Go's `encoding/gob`.

mod read;
mod types;
mod write;

pub(super) use read::Decoder;
pub(super) use types::is_start;
pub use write::GobEncoder;

/// Ids that Go itself defines; ids of a stream's types are larger.
mod id {
    pub(super) const BOOL: i64 = 1;
    pub(super) const INT: i64 = 2;
    pub(super) const UINT: i64 = 3;
    pub(super) const FLOAT: i64 = 4;
    pub(super) const BYTES: i64 = 5;
    pub(super) const STRING: i64 = 6;
    pub(super) const COMPLEX: i64 = 7;
}
