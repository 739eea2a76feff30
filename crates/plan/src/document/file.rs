//! Reads a target's requests from a target file.
//!
//! The requests and the bodies in files that they name become part of the plan; the resolved plan does not
//! need these files.

use super::request::REQUESTS_MAX;
use super::spec::{Part, Problem, RawBody, RawRequest, TargetDefaults, check_header_name};
use crate::RequestSpec;
use crate::target_file::{self, Format};
use plimsoll_config::{Attached, Field, Spot};
use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Maximum total size of a plan's target files and the bodies that they name, in bytes. The resolved plan
/// contains them, and must stay small enough to read, compare and share.
const EMBEDDED_MAX: u64 = 8 << 20;

/// The folder of a plan's files, and how many bytes of them may still be embedded.
pub(super) struct Files<'p> {
    pub(super) folder: &'p Path,
    embeddable: Cell<u64>,
}

impl<'p> Files<'p> {
    pub(super) fn of(folder: &'p Path) -> Files<'p> {
        Files { folder, embeddable: Cell::new(EMBEDDED_MAX) }
    }

    /// Reads a file of at most `max` bytes.
    pub(super) fn read(&self, path: &Path, max: u64) -> Result<Vec<u8>, String> {
        let failed = |error| format!("cannot read {}: {error}", path.display());
        let mut bytes = Vec::new();
        // The file's reported length is not used: pipes and devices have none.
        let file = File::open(path).map_err(failed)?;
        file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > max {
            return Err(format!("{} is larger than {max} bytes", path.display()));
        }
        Ok(bytes)
    }

    /// Reads a file to embed in the plan.
    fn embed(&self, path: &Path) -> Result<Vec<u8>, String> {
        let left = self.embeddable.get();
        match self.read(path, EMBEDDED_MAX)? {
            bytes if bytes.len() as u64 > left => Err(format!(
                "with {}, the target files of this plan and their bodies exceed {EMBEDDED_MAX} bytes",
                path.display()
            )),
            bytes => {
                self.embeddable.set(left - bytes.len() as u64);
                Ok(bytes)
            }
        }
    }
}

/// Reads the requests of the file named by `field`. Returns the file's name without its extension.
pub(super) fn read_file(
    field: &Field<'_>,
    format: Option<&Field<'_>>,
    files: &Files<'_>,
    defaults: &TargetDefaults<'_>,
    specs: &mut Vec<RequestSpec>,
) -> Option<String> {
    let format = match format {
        Some(field) => Some(field.one_of(&Format::WORDS)?),
        None => None,
    };
    let path = files.folder.join(field.text()?.value);
    let bytes = match files.embed(&path) {
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
    if requests.len() > REQUESTS_MAX {
        let message = format!(
            "{} contains {} requests; the maximum is {REQUESTS_MAX}",
            path.display(),
            requests.len()
        );
        field.problem(message, "split it into several targets, each with a proportional weight");
        return None;
    }
    let (first, count) = (specs.len(), requests.len());
    let folder = path.parent().unwrap_or(Path::new(""));
    specs.extend(requests.into_iter().filter_map(|request| reader.spec(request, folder)));
    let whole = problems.is_empty() && specs.len() == first + count;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    whole.then(|| stem.into_owned())
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
        let raw = RawRequest { method: method?.value, url: url?, headers, body };
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
                match self.files.embed(&path) {
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
