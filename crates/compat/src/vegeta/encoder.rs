//! [`Encoder`]: writes results in any of vegeta's encodings.

use super::{BadTime, Hit, csv, gob::GobEncoder, json};

/// Writes results in one encoding, one after the other.
#[derive(Debug)]
pub enum Encoder {
    /// Go's gob, vegeta's default.
    Gob(GobEncoder),
    /// One JSON object on each line.
    Json,
    /// Twelve columns without a header.
    Csv,
}

impl Encoder {
    /// The encoding of this name: `gob`, `json` or `csv`.
    pub fn named(name: &str) -> Option<Encoder> {
        match name {
            "gob" => Some(Encoder::Gob(GobEncoder::default())),
            "json" => Some(Encoder::Json),
            "csv" => Some(Encoder::Csv),
            _ => None,
        }
    }

    /// Appends a result to `out`.
    ///
    /// # Errors
    /// JSON cannot express the result's time; nothing is appended.
    pub fn write(&mut self, hit: &Hit, out: &mut Vec<u8>) -> Result<(), BadTime> {
        match self {
            Encoder::Gob(gob) => gob.write(hit, out),
            Encoder::Json => json::write(hit, out)?,
            Encoder::Csv => csv::write(hit, out),
        }
        Ok(())
    }
}
