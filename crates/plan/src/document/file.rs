//! A target's requests from a file of their own.
//!
//! What the file says, and the files that it names for bodies, becomes part of the plan: the
//! resolved plan holds it and needs none of them.

use super::request::REQUESTS_MAX;
use super::spec::{ForAll, Part, Written, WrittenBody, Wrong, check_header_name};
use crate::RequestSpec;
use crate::target_file::{self, Format};
use plimsoll_config::{Attached, Field, Spot};
use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Target files and the bodies that they name, over a whole plan. The resolved plan holds them, and
/// must stay a file that can be read, compared and sent to others.
const HELD_MAX: u64 = 8 << 20;

/// Where a plan's files are, and how much of them it may still hold.
pub(super) struct Files<'p> {
    pub(super) folder: &'p Path,
    held_left: Cell<u64>,
}

impl<'p> Files<'p> {
    pub(super) fn of(folder: &'p Path) -> Files<'p> {
        Files { folder, held_left: Cell::new(HELD_MAX) }
    }

    /// The bytes of a file of at most `max`.
    pub(super) fn read(&self, path: &Path, max: u64) -> Result<Vec<u8>, String> {
        let failed = |error| format!("cannot read {}: {error}", path.display());
        let mut bytes = Vec::new();
        // Not by its length: a pipe or a device has none.
        let file = File::open(path).map_err(failed)?;
        file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > max {
            return Err(format!("{} is larger than {max} bytes", path.display()));
        }
        Ok(bytes)
    }

    /// The bytes of a file that the plan is to hold.
    fn hold(&self, path: &Path) -> Result<Vec<u8>, String> {
        let left = self.held_left.get();
        match self.read(path, HELD_MAX)? {
            bytes if bytes.len() as u64 > left => Err(format!(
                "with {}, the target files of this plan and their bodies exceed {HELD_MAX} bytes",
                path.display()
            )),
            bytes => {
                self.held_left.set(left - bytes.len() as u64);
                Ok(bytes)
            }
        }
    }
}

/// Reads the requests of the file that `field` names; the file's name without its ending.
pub(super) fn read_file(
    field: &Field<'_>,
    format: Option<&Field<'_>>,
    files: &Files<'_>,
    for_all: &ForAll<'_>,
    specs: &mut Vec<RequestSpec>,
) -> Option<String> {
    let format = match format {
        Some(field) => Some(field.one_of(&Format::WORDS)?),
        None => None,
    };
    let path = files.folder.join(field.text()?.value);
    let bytes = match files.hold(&path) {
        Ok(bytes) => bytes,
        Err(message) => {
            field.problem(message, "the path is relative to the plan's folder");
            return None;
        }
    };
    let (requests, wrongs) = target_file::read(&bytes, format);
    let reading = Reading { attached: field.attached(path.display().to_string()), files, for_all };
    for wrong in &wrongs {
        reading.attached.problem(wrong.line, wrong.column, wrong.message.as_str(), wrong.hint);
    }
    if requests.len() > REQUESTS_MAX {
        let message =
            format!("{} holds {} requests; at most {REQUESTS_MAX}", path.display(), requests.len());
        field.problem(message, "split it into several targets, each with its share as weight");
        return None;
    }
    let (first, count) = (specs.len(), requests.len());
    let folder = path.parent().unwrap_or(Path::new(""));
    specs.extend(requests.into_iter().filter_map(|request| reading.spec(request, folder)));
    let whole = wrongs.is_empty() && specs.len() == first + count;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    whole.then(|| stem.into_owned())
}

struct Reading<'a, 'r> {
    attached: Attached<'r>,
    files: &'a Files<'a>,
    for_all: &'a ForAll<'r>,
}

impl Reading<'_, '_> {
    fn wrong(&self, at: Spot<'_>, Wrong(message, hint): Wrong) {
        self.attached.problem(at.line, at.column, message, hint);
    }

    fn spec(&self, request: target_file::Written, folder: &Path) -> Option<RequestSpec> {
        let method = self.attached.fill(request.method.spot());
        let url = self.attached.fill(request.url.spot());
        let mut headers = Vec::with_capacity(request.headers.len());
        for (name, value) in &request.headers {
            match (check_header_name(&name.text), self.attached.fill(value.spot())) {
                (Ok(()), Some(text)) => headers.push((name.text.clone(), text)),
                (Err(wrong), _) => self.wrong(name.spot(), wrong),
                (Ok(()), None) => {}
            }
        }
        let whole = headers.len() == request.headers.len();
        let body_at = match &request.body {
            target_file::WrittenBody::Inline(at) | target_file::WrittenBody::File(at) => at.spot(),
            _ => request.url.spot(),
        };
        let body = self.body(&request.body, folder)?;
        let written = Written { method: method?.value, url: url?, headers, body };
        let expect = Default::default();
        let spec = written.spec(self.for_all, &expect, |part, wrong| {
            let at = match part {
                Part::Method | Part::Expect => request.method.spot(),
                Part::Url => request.url.spot(),
                // Where one was left out, the places of those behind it are not known.
                Part::Header(place) if whole => request.headers[place].1.spot(),
                Part::Header(_) => request.method.spot(),
                Part::Body => body_at,
            };
            self.wrong(at, wrong);
        });
        spec.filter(|_| whole)
    }

    fn body(&self, body: &target_file::WrittenBody, folder: &Path) -> Option<WrittenBody> {
        Some(match body {
            target_file::WrittenBody::Empty => WrittenBody::Empty,
            target_file::WrittenBody::Inline(piece) => {
                WrittenBody::Inline(self.attached.fill(piece.spot())?)
            }
            target_file::WrittenBody::Bytes(bytes) => WrittenBody::held(bytes.clone(), false),
            target_file::WrittenBody::File(name) => {
                let path = folder.join(self.attached.fill(name.spot())?.value);
                match self.files.hold(&path) {
                    Ok(bytes) => WrittenBody::held(bytes, true),
                    Err(message) => {
                        let hint = "the path is relative to the target file's folder";
                        self.wrong(name.spot(), Wrong(message, hint));
                        return None;
                    }
                }
            }
        })
    }
}
