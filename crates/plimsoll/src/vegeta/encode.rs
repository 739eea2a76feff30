//! `vegeta encode`: results in another encoding.

use super::files::Output;
use super::refused;
use super::results::{Results, inputs};
use anyhow::Context;
use plimsoll_compat::vegeta::flags::Flags;
use plimsoll_compat::vegeta::{Encoder, Fields};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Bytes that are collected before they are written, while more results are at hand.
const BATCH: usize = 64 << 10;

/// Reads all results and writes them again.
pub(super) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let to = flags.text("to");
    let mut encoder = Encoder::named(&to).ok_or_else(|| {
        refused(format!("encode: unknown encoding {to:?}"), "the encodings are csv, gob and json")
    })?;
    if to == "gob" && flags.path("output") == "stdout" && std::io::stdout().is_terminal() {
        return Err(refused(
            "gob is a binary encoding, and stdout is a terminal",
            "redirect it: vegeta encode -to gob > results.bin, or use -to json",
        ));
    }
    let inputs = inputs(flags);
    let mut results = Results::open(&inputs, Fields::All)?;
    let mut output = Output::create(&flags.path("output"), &inputs)?;
    let mut batch = Vec::with_capacity(2 * BATCH);
    while let Some(hit) = results.read() {
        encoder.write(hit, &mut batch).with_context(|| {
            format!("result {} of the attack {:?}", hit.seq, String::from_utf8_lossy(&hit.attack))
        })?;
        if batch.len() >= BATCH || results.may_wait() {
            if !output.write(&batch)? {
                return Ok(ExitCode::SUCCESS);
            }
            batch.clear();
        }
    }
    results.require_any()?;
    output.write(&batch)?;
    Ok(results.finish())
}
