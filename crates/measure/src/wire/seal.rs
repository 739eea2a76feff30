//! The checksum at the end of each line: `…,"crc32":"89abcdef"}`, the CRC-32 (as in zlib) of the bytes before
//! its comma. Lines of older versions have none. A line stays valid JSON.

use crate::samples::checksum;

const FIELD: &str = ",\"crc32\":\"";
/// The length of the field with its eight digits, the quote and the brace after it.
const TAIL: usize = FIELD.len() + 8 + 2;

/// Adds the checksum to an object that is not empty.
pub(super) fn seal(mut object: String) -> String {
    assert_eq!(object.pop(), Some('}'), "an object");
    let sum = checksum(object.as_bytes());
    object + FIELD + &format!("{sum:08x}\"}}")
}

/// Removes the checksum and the line feed; returns whether there was a checksum.
///
/// # Errors
/// The checksum is not that of the line.
pub(super) fn unseal(line: &mut String) -> Result<bool, String> {
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    let Some(at) = line.len().checked_sub(TAIL).filter(|at| line.is_char_boundary(*at)) else {
        return Ok(false);
    };
    let digits = line[at..].strip_prefix(FIELD).and_then(|rest| rest.strip_suffix("\"}"));
    let Some(written) = digits else { return Ok(false) };
    let sum = format!("{:08x}", checksum(&line.as_bytes()[..at]));
    if written != sum {
        return Err(format!("its checksum is {sum}, not {written}: its bytes were changed"));
    }
    line.truncate(at);
    line.push('}');
    Ok(true)
}
