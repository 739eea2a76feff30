//! Reads a target's requests from a target file.
//!
//! The requests and the bodies in files that they name become part of the plan. The resolved plan contains
//! them as well, unless they are large: then it names the file, with a digest of its requests, so that a
//! file or variable that has changed since is noticed.

use super::request::REQUESTS_MAX;
use super::spec::{
    Expectation, Part, Problem, RawBody, RawRequest, TargetDefaults, check_header_name,
};
use crate::RequestSpec;
use crate::show::shown_size;
use crate::target_file::{self, Format};
use plimsoll_config::values::{quote, quote_filled};
use plimsoll_config::{Attached, Document, Field, Spot, Text, read_file};
use std::cell::Cell;
use std::path::Path;

/// Maximum total size of a plan's target files and the bodies that they name, in bytes. Bounds memory: a
/// request takes about a kilobyte in addition to its bytes.
const FILES_MAX: u64 = 64 << 20;
/// Maximum total size of the requests from files that a resolved plan contains, in bytes of TOML. It must
/// stay small enough to read, compare and share; half of what can be read back.
const INLINE_MAX: u64 = Document::LEN_MAX as u64 / 2;

/// The folder of a plan's files, and how many bytes of them may still be read and be inlined.
pub(super) struct Files<'p> {
    pub(super) folder: &'p Path,
    /// Of a plan that was recorded with a run: the origins of its requests. Files are not read then.
    pub(super) recorded: Option<&'p [String]>,
    readable: Cell<u64>,
    inlinable: Cell<u64>,
}

impl<'p> Files<'p> {
    pub(super) fn of(folder: &'p Path) -> Files<'p> {
        let (readable, inlinable) = (Cell::new(FILES_MAX), Cell::new(INLINE_MAX));
        Files { folder, recorded: None, readable, inlinable }
    }

    /// The files of a recorded plan whose requests went to these origins.
    pub(super) fn recorded(origins: &'p [String]) -> Files<'p> {
        Files { recorded: Some(origins), ..Files::of(Path::new("")) }
    }

    /// Reads a target file, or a body that one names.
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        let left = self.readable.get();
        match read_file(path, FILES_MAX)? {
            bytes if bytes.len() as u64 > left => Err(format!(
                "with {}, the target files of this plan and their bodies exceed {FILES_MAX} bytes",
                path.display()
            )),
            bytes => {
                self.readable.set(left - bytes.len() as u64);
                Ok(bytes)
            }
        }
    }

    /// Whether the resolved plan may contain this many more bytes and requests.
    fn inline(&self, len: u64, requests: usize) -> bool {
        let left = self.inlinable.get().checked_sub(len).filter(|_| requests <= REQUESTS_MAX);
        self.inlinable.set(left.unwrap_or(self.inlinable.get()));
        left.is_some()
    }
}

/// The keys of a target that concern its file.
pub(super) struct FileKeys<'r> {
    pub(super) file: Field<'r>,
    pub(super) format: Option<Field<'r>>,
    pub(super) digest: Option<Field<'r>>,
}

/// A request to an origin that stands for those of a file that is not read; `None` for what is not the URL
/// of an origin.
fn stand_in(origin: &str) -> Option<RequestSpec> {
    let url = Text::plain(format!("{origin}/"));
    let (headers, body) = (Vec::new(), RawBody::Empty);
    let request = RawRequest { method: "GET".into(), url, headers, body, chunked: None };
    request.spec(&TargetDefaults::default(), &Expectation::default(), |_, _| {})
}

/// Reads the requests of a target file. Returns the file's name without its extension and, if the resolved
/// plan names the file instead of containing its requests, the lines that do so.
pub(super) fn read_target_file(
    keys: &FileKeys<'_>,
    files: &Files<'_>,
    defaults: &TargetDefaults<'_>,
    specs: &mut Vec<RequestSpec>,
) -> Option<(String, Option<String>)> {
    let field = &keys.file;
    let format = match &keys.format {
        Some(field) => Some(field.one_of(&Format::WORDS)?),
        None => None,
    };
    let path = files.folder.join(field.open_text("the path of a target file")?);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if let Some(origins) = files.recorded {
        specs.extend(origins.iter().filter_map(|origin| stand_in(origin)));
        return Some((stem.into(), None));
    }
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(message) => {
            field.problem(message, "the path is relative to the plan's folder");
            return None;
        }
    };
    let (requests, problems) = target_file::read(&bytes, format);
    let reader =
        FileReader { attached: field.attached(path.display().to_string()), files, defaults };
    for problem in &problems {
        reader.attached.problem(
            problem.line,
            problem.column,
            problem.message.as_str(),
            problem.hint,
        );
    }
    let (first, count) = (specs.len(), requests.len());
    let folder = path.parent().unwrap_or(Path::new(""));
    specs.extend(requests.into_iter().filter_map(|request| reader.spec(request, folder)));
    let whole = problems.is_empty() && specs.len() == first + count;
    if !whole {
        return None;
    }
    let (len, digest) = shown_size(&specs[first..]);
    if let Some(field) = &keys.digest {
        let recorded = field.text()?.value;
        if recorded != digest {
            let message = format!(
                "the requests of {} have digest {digest}, not {recorded}: the file, a file that it \
                 names, or a variable has changed",
                path.display()
            );
            field.problem(message, "restore them, or remove \"digest\"");
            return None;
        }
    }
    let named = (keys.digest.is_some() || !files.inline(len, count))
        .then(|| show_reference(&path, format, &digest, defaults));
    Some((stem.into_owned(), named))
}

/// The lines of a resolved plan that name a target file.
fn show_reference(
    path: &Path,
    format: Option<Format>,
    digest: &str,
    defaults: &TargetDefaults<'_>,
) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let mut lines = format!("file = {}\n", quote_filled(&path.display().to_string()));
    if let Some((word, _)) = Format::WORDS.iter().find(|(_, own)| Some(*own) == format) {
        lines += &format!("format = {}\n", quote(word));
    }
    lines += &format!("digest = {}\n", quote(digest));
    lines + &defaults.show()
}

struct FileReader<'a, 'r> {
    attached: Attached<'r>,
    files: &'a Files<'a>,
    defaults: &'a TargetDefaults<'r>,
}

impl FileReader<'_, '_> {
    fn problem(&self, at: Spot<'_>, Problem(message, hint): Problem) {
        self.attached.problem(at.line, at.column, message, hint);
    }

    fn spec(&self, request: target_file::RawRequest, folder: &Path) -> Option<RequestSpec> {
        let method = self.attached.fill(request.method.spot());
        let url = self.attached.fill(request.url.spot());
        let mut headers = Vec::with_capacity(request.headers.len());
        for (name, value) in &request.headers {
            match (check_header_name(&name.text), self.attached.fill(value.spot())) {
                (Ok(()), Some(text)) => headers.push((name.text.clone(), text)),
                (Err(problem), _) => self.problem(name.spot(), problem),
                (Ok(()), None) => {}
            }
        }
        let whole = headers.len() == request.headers.len();
        let body_at = match &request.body {
            target_file::RawBody::Inline(at) | target_file::RawBody::File(at) => at.spot(),
            _ => request.url.spot(),
        };
        let body = self.body(&request.body, folder)?;
        let raw = RawRequest { method: method?.value, url: url?, headers, body, chunked: None };
        let expect = Default::default();
        let spec = raw.spec(self.defaults, &expect, |part, problem| {
            let at = match part {
                Part::Method | Part::Expect => request.method.spot(),
                Part::Url => request.url.spot(),
                // If a header was left out, the positions of the ones after it are unknown.
                Part::Header(place) if whole => request.headers[place].1.spot(),
                Part::Header(_) => request.method.spot(),
                Part::Body => body_at,
            };
            self.problem(at, problem);
        });
        spec.filter(|_| whole)
    }

    fn body(&self, body: &target_file::RawBody, folder: &Path) -> Option<RawBody> {
        Some(match body {
            target_file::RawBody::Empty => RawBody::Empty,
            target_file::RawBody::Inline(span) => RawBody::Inline(self.attached.fill(span.spot())?),
            target_file::RawBody::Bytes(bytes) => RawBody::embedded(bytes.clone(), false),
            target_file::RawBody::File(name) => {
                let path = folder.join(self.attached.fill(name.spot())?.value);
                match self.files.read(&path) {
                    Ok(bytes) => RawBody::embedded(bytes, true),
                    Err(message) => {
                        let hint = "the path is relative to the target file's folder";
                        self.problem(name.spot(), Problem(message, hint));
                        return None;
                    }
                }
            }
        })
    }
}
