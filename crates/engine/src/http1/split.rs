//! Extracts the value of one header, if the caller asked for it.

use plimsoll_measure::SplitValue;

/// A header to extract, and its value.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// Empty: none.
    pub(super) header: Vec<u8>,
    pub(super) value: Option<SplitValue>,
}

impl Split {
    #[inline]
    pub(super) fn look_at(&mut self, name: &[u8], value: &[u8]) {
        if name.len() == self.header.len()
            && self.value.is_none()
            && name.eq_ignore_ascii_case(&self.header)
        {
            self.value = Some(SplitValue::of(value));
        }
    }
}
