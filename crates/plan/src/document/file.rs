//! Reads a target's requests from a target file.
//!
//! The requests and the bodies in files that they name become part of the plan. The resolved plan contains
//! them as well, unless they are large: then it names the file, with a digest of its requests, so that a
//! file or variable that has changed since is noticed.

use super::request::REQUESTS_MAX;
use super::spec::{
    Expectation, Part, Problem, RawBody, RawRequest, TargetDefaults, check_header,
    is_redundant_header,
};
use crate::RequestSpec;
use crate::show::shown_size;
use crate::target_file::{self, Format, RequestText, StreamError};
use crate::{DefaultHeaders, Template};
use plimsoll_config::values::{quote, quote_filled};
use plimsoll_config::{Attached, Document, Field, Spot, Text, read_file};
use std::cell::{Cell, RefCell};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Maximum total size of a plan's target files and the bodies that they name, in bytes. Bounds memory: a
/// request takes about a kilobyte in addition to its bytes.
const FILES_MAX: u64 = 64 << 20;
/// Maximum total size of the requests from files that a resolved plan contains, in bytes of TOML. It must
/// stay small enough to read, compare and share; half of what can be read back.
const INLINE_MAX: u64 = Document::LEN_MAX as u64 / 2;

/// How to do without files of an agent's host.
const SENT_HINT: &str = "write the contents into the plan; for certificates, add the CA to the system of each agent's host";

/// The folder of a plan's files, and how many bytes of them may still be read and be inlined.
pub(super) struct Files<'p> {
    pub(super) folder: &'p Path,
    /// Of a plan that was recorded with a run: the origins of its requests. Files are not read then.
    pub(super) recorded: Option<&'p [String]>,
    /// Which headers are sent besides those of the plan.
    pub(super) default_headers: Cell<DefaultHeaders>,
    /// Whether the targets that are read open something that stays open.
    pub(super) stays_open: Cell<bool>,
    /// Whether another host has sent the plan: it may name no files of this one.
    is_sent: bool,
    /// The bytes of the only target file, if it is not to be read: the first request of a stream.
    first: Option<&'p [u8]>,
    /// How the rest of that stream is read.
    stream: RefCell<Option<TargetStream>>,
    readable: Cell<u64>,
    inlinable: Cell<u64>,
}

impl<'p> Files<'p> {
    pub(super) fn of(folder: &'p Path) -> Files<'p> {
        let (readable, inlinable) = (Cell::new(FILES_MAX), Cell::new(INLINE_MAX));
        let default_headers = Cell::default();
        let (first, stream) = (None, RefCell::default());
        let stays_open = Cell::default();
        Files {
            folder,
            recorded: None,
            default_headers,
            stays_open,
            is_sent: false,
            first,
            stream,
            readable,
            inlinable,
        }
    }

    /// The files of a plan that another host has sent: none. They are not even looked for, so that no problem says
    /// whether they exist.
    pub(super) fn sent() -> Files<'p> {
        Files { is_sent: true, ..Files::of(Path::new("/")) }
    }

    /// Why a file must not be read, if so.
    pub(super) fn refusal(&self, path: &Path) -> Option<String> {
        self.is_sent.then(|| {
            format!(
                "the plan names the file {}, and an agent reads no files for others",
                path.display()
            )
        })
    }

    /// How to fix a file that cannot be read.
    pub(super) fn hint(&self) -> &'static str {
        if self.is_sent { SENT_HINT } else { "the path is relative to the plan's folder" }
    }

    /// The files of a plan whose only target file is a stream that begins with this request.
    pub(super) fn streaming(folder: &'p Path, first: &'p [u8]) -> Files<'p> {
        Files { first: Some(first), ..Files::of(folder) }
    }

    /// How the rest of the stream is read.
    pub(super) fn into_stream(self) -> Option<TargetStream> {
        self.stream.into_inner()
    }

    /// The files of a recorded plan whose requests went to these origins.
    pub(super) fn recorded(origins: &'p [String]) -> Files<'p> {
        Files { recorded: Some(origins), ..Files::of(Path::new("")) }
    }

    /// Reads a body that a target file names.
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.charge(path, read_file(path, FILES_MAX)?)
    }

    /// Reads a target file, which may be stdin or a pipe that is open already (`<(command)` in a shell).
    /// Opening any other pipe might wait forever for a writer.
    fn read_targets(&self, path: &Path) -> Result<Vec<u8>, String> {
        if let Some(why) = self.refusal(path) {
            return Err(why);
        }
        let is_pipe = std::fs::read_link(path)
            .is_ok_and(|to| to.as_os_str().as_bytes().starts_with(b"pipe:"));
        let pipe: Box<dyn Read> = if path == Path::new(STDIN) {
            Box::new(std::io::stdin())
        } else if is_pipe {
            let opened = std::fs::File::open(path);
            Box::new(opened.map_err(|error| format!("cannot read {}: {error}", path.display()))?)
        } else {
            return self.read(path);
        };
        let mut bytes = Vec::new();
        let read = pipe.take(FILES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        self.charge(path, bytes)
    }

    /// Counts bytes that were read towards the limit.
    fn charge(&self, path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        let left = self.readable.get();
        match bytes {
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
    /// Whether the file is sent as it is: nothing in it is a variable or a placeholder.
    pub(super) literal: bool,
    /// The folder that the names of body files are relative to, instead of the target file's.
    pub(super) body_folder: Option<Field<'r>>,
}

/// The name of a target file that stands for stdin.
const STDIN: &str = "-";

/// A request to an origin that stands for those of a file that is not read; `None` for what is not the URL
/// of an origin.
fn stand_in(origin: &str) -> Option<RequestSpec> {
    let url = Text::plain(format!("{origin}/"));
    let (headers, body) = (Vec::new(), RawBody::Empty);
    let request = RawRequest {
        method: "GET".into(),
        url,
        headers,
        body,
        chunked: None,
        is_websocket: false,
        compression: false,
        standing: None,
    };
    request.spec(&TargetDefaults::default(), &Expectation::default(), |_, _| {})
}

/// Reads the requests of a target file. Returns the file's name without its extension and, if the resolved
/// plan names the file instead of containing its requests, the lines that do so.
pub(super) fn read_target_file(
    keys: &FileKeys<'_>,
    files: &Files<'_>,
    defaults: &TargetDefaults,
    specs: &mut Vec<RequestSpec>,
) -> Option<(String, Option<String>)> {
    let field = &keys.file;
    let format = match &keys.format {
        Some(field) => Some(field.one_of(&Format::WORDS)?),
        None => None,
    };
    let written = field.open_text("the path of a target file")?;
    let path = if written == STDIN { PathBuf::from(STDIN) } else { files.folder.join(written) };
    let stem = match path.file_stem().unwrap_or_default().to_string_lossy() {
        name if name == STDIN => "stdin".into(),
        name => name,
    };
    if let Some(origins) = files.recorded {
        specs.extend(origins.iter().filter_map(|origin| stand_in(origin)));
        return Some((stem.into(), None));
    }
    let body_folder = match &keys.body_folder {
        Some(field) => files.folder.join(field.open_text("a folder")?),
        None if path == Path::new(STDIN) => files.folder.into(),
        None => path.parent().unwrap_or(Path::new("")).into(),
    };
    let bytes =
        match files.first.map_or_else(|| files.read_targets(&path), |first| Ok(first.into())) {
            Ok(bytes) => bytes,
            Err(message) => {
                field.problem(message, files.hint());
                return None;
            }
        };
    let (requests, problems) = target_file::read(&bytes, format, keys.literal);
    let name = if path == Path::new(STDIN) { "stdin".into() } else { path.display().to_string() };
    let attached = field.attached(name.clone());
    let report = |at: Spot<'_>, Problem(message, hint): Problem| {
        attached.problem(at.line, at.column, message, hint);
    };
    let read_body = |path: &Path| files.read(path);
    let reader = FileReader {
        variables: (!keys.literal).then_some(&attached),
        report: &report,
        read_body: &read_body,
        defaults,
        folder: &body_folder,
    };
    for problem in &problems {
        report(spot_of(problem), Problem(problem.message.clone(), problem.hint));
    }
    if files.first.is_some() {
        let (defaults, body_folder) = (defaults.clone(), body_folder.clone());
        let format = format.unwrap_or(Format::Http);
        *files.stream.borrow_mut() = Some(TargetStream { name, format, defaults, body_folder });
    }
    let (first, count) = (specs.len(), requests.len());
    specs.extend(requests.into_iter().filter_map(|request| reader.spec(request)));
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
        .then(|| show_reference(keys, (&path, &body_folder), format, &digest, defaults));
    Some((stem.into_owned(), named))
}

/// The lines of a resolved plan that name a target file.
fn show_reference(
    keys: &FileKeys<'_>,
    (path, body_folder): (&Path, &Path),
    format: Option<Format>,
    digest: &str,
    defaults: &TargetDefaults,
) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let mut lines = format!("file = {}\n", quote_filled(&path.display().to_string()));
    if let Some((word, _)) = Format::WORDS.iter().find(|(_, own)| Some(*own) == format) {
        lines += &format!("format = {}\n", quote(word));
    }
    if keys.literal {
        lines += "literal = true\n";
    }
    if keys.body_folder.is_some() {
        let folder = std::path::absolute(body_folder).unwrap_or_else(|_| body_folder.into());
        lines += &format!("body_folder = {}\n", quote_filled(&folder.display().to_string()));
    }
    lines += &format!("digest = {}\n", quote(digest));
    lines + &defaults.show(keys.literal)
}

/// The position of a problem.
fn spot_of(problem: &target_file::Problem) -> Spot<'_> {
    Spot { line: problem.line, column: problem.column, text: "" }
}

/// Turns requests as written into requests.
struct FileReader<'a, 'r> {
    /// Replaces variables; `None`: the file is sent as it is.
    variables: Option<&'a Attached<'r>>,
    report: &'a dyn Fn(Spot<'_>, Problem),
    read_body: &'a dyn Fn(&Path) -> Result<Vec<u8>, String>,
    defaults: &'a TargetDefaults,
    /// The names of bodies are relative to it.
    folder: &'a Path,
}

/// Reads the requests of a stream one by one, by the rules of a plan's only target. They are sent as they
/// are: nothing in them is a variable or a placeholder.
pub struct TargetStream {
    name: String,
    format: Format,
    defaults: TargetDefaults,
    body_folder: PathBuf,
}

impl TargetStream {
    /// Reads one request.
    ///
    /// # Errors
    /// All its problems as text, each with its line, column and hint.
    pub fn read(&self, text: &RequestText) -> Result<RequestSpec, String> {
        let problems = RefCell::new(String::new());
        let report = |at: Spot<'_>, Problem(message, hint): Problem| {
            let hint = if hint.is_empty() { String::new() } else { format!("\n  hint: {hint}") };
            let line = at.line + text.line - 1;
            let mut all = problems.borrow_mut();
            let gap = if all.is_empty() { "" } else { "\n" };
            *all += &format!("{gap}{}:{line}:{}: {message}{hint}", self.name, at.column);
        };
        let reader = FileReader {
            variables: None,
            report: &report,
            read_body: &|path: &Path| read_file(path, FILES_MAX),
            defaults: &self.defaults,
            folder: &self.body_folder,
        };
        let (requests, found) = target_file::read(&text.bytes, Some(self.format), true);
        for problem in &found {
            report(spot_of(problem), Problem(problem.message.clone(), problem.hint));
        }
        let request = requests.into_iter().next().filter(|_| found.is_empty());
        let spec = request.and_then(|request| reader.spec(request));
        spec.ok_or_else(|| problems.take())
    }

    /// The problem of a stream that cannot be read further.
    pub fn problem(&self, error: &StreamError) -> String {
        error.describe(&self.name)
    }
}

impl FileReader<'_, '_> {
    /// A part of the file with its variables replaced.
    fn fill(&self, spot: Spot<'_>) -> Option<Text> {
        if let Some(variables) = self.variables {
            return variables.fill(spot);
        }
        let value = Template::escape(spot.text);
        Some(Text { shown: value.replace("${", "$${"), ..Text::plain(value) })
    }

    fn spec(&self, request: target_file::RawRequest) -> Option<RequestSpec> {
        let method = self.fill(request.method.spot());
        let url = self.fill(request.url.spot());
        let (mut headers, mut places, mut whole) = (Vec::new(), Vec::new(), true);
        for (name, value) in &request.headers {
            if self.variables.is_none() && is_redundant_header(&name.text, &value.text) {
                continue;
            }
            match (check_header(&name.text, &value.text), self.fill(value.spot())) {
                (Ok(()), Some(text)) => {
                    headers.push((name.text.clone(), text));
                    places.push(value.spot());
                }
                (Err(problem), _) => {
                    whole = false;
                    (self.report)(name.spot(), problem);
                }
                (Ok(()), None) => whole = false,
            }
        }
        let body_at = match &request.body {
            target_file::RawBody::Inline(at) | target_file::RawBody::File(at) => at.spot(),
            _ => request.url.spot(),
        };
        let body = self.body(&request.body)?;
        let raw = RawRequest {
            method: method?.value,
            url: url?,
            headers,
            body,
            chunked: None,
            is_websocket: false,
            compression: false,
            standing: None,
        };
        let expect = Default::default();
        let spec = raw.spec(self.defaults, &expect, |part, problem| {
            let at = match part {
                Part::Method | Part::Expect => request.method.spot(),
                Part::Url => request.url.spot(),
                Part::Header(place) => places.get(place).copied().unwrap_or(request.method.spot()),
                Part::Body => body_at,
            };
            (self.report)(at, problem);
        });
        spec.filter(|_| whole)
    }

    fn body(&self, body: &target_file::RawBody) -> Option<RawBody> {
        Some(match body {
            target_file::RawBody::Empty => RawBody::Empty,
            target_file::RawBody::Inline(span) => RawBody::Inline(self.fill(span.spot())?),
            target_file::RawBody::Bytes(bytes) => RawBody::embedded(bytes.clone(), false),
            target_file::RawBody::File(name) => {
                let written = match self.variables {
                    Some(variables) => variables.fill(name.spot())?.value,
                    None => name.text.clone(),
                };
                match (self.read_body)(&self.folder.join(written)) {
                    Ok(bytes) => RawBody::embedded(bytes, self.variables.is_some()),
                    Err(message) => {
                        let hint = "the path is relative to body_folder, or else to the target file's \
                                    folder";
                        (self.report)(name.spot(), Problem(message, hint));
                        return None;
                    }
                }
            }
        })
    }
}
