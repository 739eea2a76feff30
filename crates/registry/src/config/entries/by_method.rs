//! Reads numbers by method: one number for all, or a table of them by method pattern.

use plimsoll_config::{Field, Table};

use crate::model::{ByMethod, COMPUTE_UNITS_MAX, ComputeUnits, MethodRules};

/// The names of the number for methods that no other pattern fits.
const DEFAULTS: [&str; 2] = ["*", "default"];

/// Patterns of one table; each call of a method that the gateway does not know is compared with them.
const PATTERNS_MAX: usize = 256;

/// Reads a number, or a table of numbers; `number` reads one.
pub(super) fn read<T: Copy + Ord + From<u8>>(
    field: &Field<'_>,
    number: impl Fn(&Field<'_>) -> Option<T>,
) -> Option<ByMethod<T>> {
    if !field.is_table() {
        return Some(ByMethod { default: number(field)?, methods: Vec::new() });
    }
    let mut read = ByMethod::default();
    let mut is_default_given = false;
    let entries = field.table("numbers by method")?.entries();
    if entries.len() > PATTERNS_MAX {
        let message = format!("{} patterns; there may be {PATTERNS_MAX}", entries.len());
        field.problem(message, "shorten the list with prefixes such as \"debug_*\"");
    }
    for (pattern, field) in entries {
        if let Err(message) = MethodRules::check(&pattern) {
            field.problem_with_key(message, "");
        }
        let Some(number) = number(&field) else { continue };
        if !DEFAULTS.contains(&pattern.as_str()) {
            read.methods.push((pattern, number));
            continue;
        }
        if is_default_given {
            field.problem("\"*\" and \"default\" mean the same", "remove one of the two");
        }
        (read.default, is_default_given) = (number, true);
    }
    read.methods.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
    Some(read)
}

/// Reads what calls are charged.
pub(super) fn read_compute_units(table: &Table<'_>) -> Option<ComputeUnits> {
    let number =
        |field: &Field<'_>| field.integer(0, COMPUTE_UNITS_MAX.into()).map(|number| number as u32);
    read(&table.field("compute_units")?, number)
}
