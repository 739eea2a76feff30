//! The table of keys: how each is read, shown, and called in file, environment and flags.
//!
//! It is the only place that names them: the reader, the printer, the names of the environment
//! variables and the check of the documentation all come from it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use plimsoll_config::values::{quote, quote_filled, show_duration, show_share, show_size};
use plimsoll_config::{Field, Place, Problems, Table, Variables, values};
use plimsoll_measure::Nanos;

use super::{Config, Draft, instance};
use crate::model::Address;
use crate::settings::{Cors, Network};
use crate::store;

/// Threads that may serve; each has a runtime of its own.
const WORKERS_MAX: u64 = 256;

/// Numbers above these are a slip of the pen.
const COUNT_MAX: u64 = 10_000_000;
const HEADER_MAX: u64 = 16 << 20;

/// How a value is written outside a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Bool,
    /// Texts with commas between them.
    List,
    /// A word, or texts with commas between them.
    WordOrList,
}

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// In the file; what is before a dot is a table's name.
    pub path: &'static str,
    /// How it is written outside the file.
    pub form: Form,
    /// Its environment variable, where that does not follow from its path.
    variable: Option<&'static str>,
    /// Its flag, if it has one.
    pub flag: Option<&'static str>,
    /// Whether a running gateway takes up a change.
    pub reloads: bool,
    read: fn(&Field<'_>, &mut Draft),
    show: fn(&Config) -> Option<String>,
}

impl Key {
    const fn new(
        path: &'static str,
        form: Form,
        read: fn(&Field<'_>, &mut Draft),
        show: fn(&Config) -> Option<String>,
    ) -> Key {
        Key { path, form, variable: None, flag: None, reloads: false, read, show }
    }

    const fn variable_is(self, variable: &'static str) -> Key {
        Key { variable: Some(variable), ..self }
    }

    const fn flag(self, flag: &'static str) -> Key {
        Key { flag: Some(flag), ..self }
    }

    const fn reloads(self) -> Key {
        Key { reloads: true, ..self }
    }

    /// Its environment variable: `PLIMSOLL_LIMITS_BODY`.
    pub fn variable(&self) -> String {
        match self.variable {
            Some(variable) => variable.into(),
            None => format!("PLIMSOLL_{}", self.path.replace('.', "_").to_ascii_uppercase()),
        }
    }

    /// Its value as TOML, secrets left out; `None` where there is none.
    pub fn show(&self, config: &Config) -> Option<String> {
        (self.show)(config)
    }

    /// The table that it is in (empty: none), and its name there.
    pub(super) fn table_and_name(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    /// A value from outside a file as a line of TOML.
    fn line(&self, value: &str) -> Result<String, String> {
        let list = || {
            let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
            format!("[{}]", items.map(quote).collect::<Vec<_>>().join(", "))
        };
        let value = match self.form {
            Form::Text => quote(value),
            Form::Number => match value.trim().parse::<u64>() {
                Ok(number) => number.to_string(),
                Err(_) => return Err(format!("\"{value}\" is no whole number")),
            },
            Form::Bool => match value.trim() {
                value @ ("true" | "false") => value.into(),
                _ => return Err(format!("\"{value}\" is neither true nor false")),
            },
            Form::List => list(),
            Form::WordOrList if value.contains("://") => list(),
            Form::WordOrList => quote(value.trim()),
        };
        Ok(format!("{} = {value}", self.path))
    }
}

/// Every key, in the order in which they are printed: first those in no table.
pub static KEYS: [Key; 25] = [
    Key::new(
        "listen",
        Form::List,
        |field, draft| {
            if let Some(listen) = addresses(field) {
                draft.config.settings.listen = listen;
            }
        },
        |config| Some(list(config.settings.listen.iter().map(|a| quote(&a.to_string())))),
    )
    .flag("--listen"),
    Key::new(
        "instance",
        Form::Text,
        |field, draft| draft.instance = field.text().and_then(|text| label(field, text.value)),
        |config| Some(quote_filled(&config.settings.instance)),
    )
    .flag("--instance"),
    Key::new(
        "workers",
        Form::Number,
        |field, draft| set(&mut draft.config.settings.workers, count(field, WORKERS_MAX)),
        |config| Some(config.settings.workers.to_string()),
    )
    .flag("--workers"),
    Key::new(
        "database",
        Form::Text,
        |field, draft| draft.database = database(field, &draft.folder),
        |config| match &config.database {
            None => Some(quote("off")),
            Some(database) => database.named.then(|| quote(&database.url.shown)),
        },
    )
    .variable_is("DATABASE_URL")
    .flag("--database"),
    Key::new("instances", Form::List, instances, |config| {
        Some(list(config.instances.iter().map(|instance| quote(&instance.url.shown))))
    })
    .variable_is("PATH_GATEWAY_INSTANCES")
    .reloads(),
    Key::new(
        "built_in_services",
        Form::Bool,
        |field, draft| set(&mut draft.config.built_in_services, field.boolean()),
        |config| Some(config.built_in_services.to_string()),
    )
    .reloads(),
    Key::new("trusted_proxies", Form::List, trusted_proxies, |config| {
        Some(list(config.settings.trusted_proxies.iter().map(|net| quote(&net.to_string()))))
    })
    .reloads(),
    Key::new(
        "reveal",
        Form::Bool,
        |field, draft| set(&mut draft.config.settings.reveal, field.boolean()),
        |config| Some(config.settings.reveal.to_string()),
    )
    .reloads(),
    Key::new("cors", Form::WordOrList, cors, |config| {
        Some(match &config.settings.cors {
            Cors::Any => quote("any"),
            Cors::Off => quote("off"),
            Cors::Origins(origins) => list(origins.iter().map(|origin| quote(origin))),
        })
    })
    .reloads(),
    Key::new(
        "drain",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.drain, field.duration().map(Nanos::from)),
        |config| Some(span(config.settings.drain)),
    ),
    Key::new(
        "tls.cert",
        Form::Text,
        |field, draft| draft.tls_cert = file(field, &draft.folder),
        |config| config.settings.tls.as_ref().map(|tls| path(&tls.cert)),
    ),
    Key::new(
        "tls.key",
        Form::Text,
        |field, draft| draft.tls_key = file(field, &draft.folder),
        |config| config.settings.tls.as_ref().map(|tls| path(&tls.key)),
    ),
    Key::new(
        "access_log.sample",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.access_log.sample, field.parse(values::share))
        },
        |config| Some(quote(&show_share(config.settings.access_log.sample))),
    )
    .reloads(),
    Key::new(
        "access_log.file",
        Form::Text,
        |field, draft| draft.config.settings.access_log.file = log_file(field, &draft.folder),
        |config| config.settings.access_log.file.as_deref().map(path),
    )
    .reloads(),
    Key::new(
        "limits.body",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.limits.body, size(field, 1, u64::MAX >> 1)),
        |config| Some(quote(&show_size(config.settings.limits.body))),
    )
    .reloads(),
    Key::new(
        "limits.batch",
        Form::Number,
        |field, draft| set(&mut draft.config.settings.limits.batch, count(field, COUNT_MAX)),
        |config| Some(config.settings.limits.batch.to_string()),
    )
    .reloads(),
    Key::new(
        "limits.header",
        Form::Text,
        |field, draft| {
            let size = size(field, 1 << 10, HEADER_MAX).map(|size| size as usize);
            set(&mut draft.config.settings.limits.header, size);
        },
        |config| Some(quote(&show_size(config.settings.limits.header as u64))),
    )
    .reloads(),
    Key::new(
        "limits.connections",
        Form::Number,
        |field, draft| set(&mut draft.config.settings.limits.connections, count(field, COUNT_MAX)),
        |config| Some(config.settings.limits.connections.to_string()),
    )
    .reloads(),
    Key::new(
        "limits.http2_streams",
        Form::Number,
        |field, draft| {
            let streams = field.integer(1, 100_000).map(|streams| streams as u32);
            set(&mut draft.config.settings.limits.http2_streams, streams);
        },
        |config| Some(config.settings.limits.http2_streams.to_string()),
    )
    .reloads(),
    Key::new(
        "limits.answer",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.limits.answer, size(field, 1, u64::MAX >> 1)),
        |config| Some(quote(&show_size(config.settings.limits.answer))),
    )
    .reloads(),
    Key::new(
        "limits.upstream_connections",
        Form::Number,
        |field, draft| {
            let connections = count(field, COUNT_MAX);
            set(&mut draft.config.settings.limits.upstream_connections, connections);
        },
        |config| Some(config.settings.limits.upstream_connections.to_string()),
    )
    .reloads(),
    Key::new(
        "limits.header_time",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.limits.header_time, time(field)),
        |config| Some(span(config.settings.limits.header_time)),
    )
    .reloads(),
    Key::new(
        "limits.body_time",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.limits.body_time, time(field)),
        |config| Some(span(config.settings.limits.body_time)),
    )
    .reloads(),
    Key::new(
        "limits.idle_time",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.limits.idle_time, time(field)),
        |config| Some(span(config.settings.limits.idle_time)),
    )
    .reloads(),
    Key::new(
        "limits.write_time",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.limits.write_time, time(field)),
        |config| Some(span(config.settings.limits.write_time)),
    )
    .reloads(),
];

/// The tables that keys are in, as problems call them.
const TABLES: [&str; 3] = ["tls", "access_log", "limits"];

/// The keys that differ between two configurations although a running gateway cannot take up the
/// change: it has to be restarted for them.
pub fn fixed_differences(running: &Config, read: &Config) -> Vec<&'static str> {
    let differs = |key: &&Key| !key.reloads && key.show(running) != key.show(read);
    KEYS.iter().filter(differs).map(|key| key.path).collect()
}

/// Reads the keys of a document.
pub(super) fn read(root: &Table<'_>, draft: &mut Draft) {
    read_table(root, "", draft);
    for name in TABLES {
        if let Some(table) = root.field(name).and_then(|field| field.table(name)) {
            read_table(&table, name, draft);
            table.close();
        }
    }
}

fn read_table(table: &Table<'_>, of: &str, draft: &mut Draft) {
    for key in KEYS.iter().filter(|key| key.table_and_name().0 == of) {
        if let Some(field) = table.field(key.table_and_name().1) {
            (key.read)(&field, draft);
            draft.places.insert(key.path, field.place());
        }
    }
}

/// Lines of TOML by their names, and what cannot be one.
type Lines = (Vec<(String, String)>, Problems);

/// What the environment says. An empty variable says nothing.
pub(super) fn environment(variables: &Variables) -> Lines {
    let named = KEYS.iter().filter_map(|key| {
        let variable = key.variable();
        let value = variables.get(&variable).filter(|value| !value.trim().is_empty())?;
        Some((variable.clone(), key, value.to_string()))
    });
    lines(named)
}

/// What flags say. A list's flag may come several times.
pub(super) fn flags(flags: &[(&'static str, String)]) -> Lines {
    let named = KEYS.iter().filter_map(|key| {
        let flag = key.flag?;
        let given = flags.iter().filter(|(name, _)| *name == flag).map(|(_, value)| value.as_str());
        let given: Vec<&str> = given.collect();
        (!given.is_empty()).then(|| (flag.to_string(), key, given.join(",")))
    });
    lines(named)
}

fn lines(named: impl Iterator<Item = (String, &'static Key, String)>) -> Lines {
    let mut lines = Vec::new();
    let mut problems = Problems::default();
    for (name, key, value) in named {
        match key.line(&value) {
            Ok(line) => lines.push((name, line)),
            Err(message) => problems.note(Place::Named(name), message, ""),
        }
    }
    (lines, problems)
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn span(span: Nanos) -> String {
    quote(&show_duration(span.into()))
}

fn path(path: &Path) -> String {
    quote_filled(&path.display().to_string())
}

fn addresses(field: &Field<'_>) -> Option<Vec<SocketAddr>> {
    let items = field.list()?;
    if items.is_empty() {
        field.problem("\"listen\" names no address", "write it like [\"127.0.0.1:3069\"]");
    }
    let address = |text: &str| {
        text.parse::<SocketAddr>().map_err(|_| {
            format!(
                "\"{text}\" is no address to listen on; write it like 127.0.0.1:3069 or [::]:3069"
            )
        })
    };
    let read: Vec<SocketAddr> = items.iter().filter_map(|item| item.parse(address)).collect();
    for (at, address) in read.iter().enumerate() {
        if address.port() != 0 && read[..at].contains(address) {
            field.problem(format!("{address} is named twice"), "");
        }
    }
    Some(read)
}

/// A text that goes into a header.
fn label(field: &Field<'_>, text: String) -> Option<String> {
    let plain = !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic());
    if !plain {
        let message = "\"instance\" must be 1 to 255 printable ASCII characters without spaces";
        field.problem(message, "");
    }
    plain.then_some(text)
}

fn count(field: &Field<'_>, most: u64) -> Option<usize> {
    field.integer(1, most).map(|count| count as usize)
}

fn size(field: &Field<'_>, least: u64, most: u64) -> Option<u64> {
    let size = field.size()?;
    if !(least..=most).contains(&size) {
        let (least, most) = (show_size(least), show_size(most));
        field.problem(format!("must be from {least} to {most}, not {}", show_size(size)), "");
        return None;
    }
    Some(size)
}

fn time(field: &Field<'_>) -> Option<Nanos> {
    field.duration_above_zero().map(Nanos::from)
}

/// A path as seen from a folder, absolute so that it can be printed.
pub(super) fn absolute(folder: &Path, path: &str) -> PathBuf {
    let path = folder.join(path);
    std::path::absolute(&path).unwrap_or(path)
}

/// A file that must be there.
pub(super) fn file(field: &Field<'_>, folder: &Path) -> Option<PathBuf> {
    let text = field.text().filter(|text| text.unset.is_none())?;
    let path = absolute(folder, &text.value);
    if !path.is_file() {
        field.problem(format!("there is no file {}", path.display()), "");
    }
    Some(path)
}

fn log_file(field: &Field<'_>, folder: &Path) -> Option<PathBuf> {
    let text = field.text().filter(|text| text.unset.is_none())?;
    let path = absolute(folder, &text.value);
    if !path.parent().is_some_and(Path::is_dir) {
        field.problem(format!("there is no folder for {}", path.display()), "");
    }
    Some(path)
}

fn database(field: &Field<'_>, folder: &Path) -> Option<plimsoll_config::Text> {
    let mut text = field.text()?;
    if text.value == "off" || text.unset.is_some() {
        return Some(text);
    }
    if let Err(message) = store::check_url(&text.value) {
        field.problem(message, "write it like sqlite:plimsoll.db, or \"off\" for none");
        return None;
    }
    let plain = text.value == text.shown;
    text.value = absolute_database(&text.value, folder);
    if plain {
        text.shown = text.value.replace("${", "$${");
    }
    Some(text)
}

/// A database's URL with its path absolute.
pub(super) fn absolute_database(url: &str, folder: &Path) -> String {
    match store::sqlite_path(url) {
        Some(path) => format!("sqlite:{}", absolute(folder, path).display()),
        None => url.into(),
    }
}

fn instances(field: &Field<'_>, draft: &mut Draft) {
    let items = field.list().unwrap_or_default();
    let read = |item: &Field<'_>| match instance(item.text()?) {
        Ok(instance) => Some(instance),
        Err(message) => {
            item.problem(message, "");
            None
        }
    };
    draft.config.instances = items.iter().filter_map(read).collect();
}

fn trusted_proxies(field: &Field<'_>, draft: &mut Draft) {
    let items = field.list().unwrap_or_default();
    let networks = items.iter().filter_map(|item| item.parse(Network::parse));
    draft.config.settings.trusted_proxies = networks.collect();
}

fn cors(field: &Field<'_>, draft: &mut Draft) {
    let cors = &mut draft.config.settings.cors;
    if !field.is_list() {
        match field.one_of(&[("any", true), ("off", false)]) {
            Some(true) => *cors = Cors::Any,
            Some(false) => *cors = Cors::Off,
            None => {}
        }
        return;
    }
    let origin = |text: &str| {
        let wrong = format!("\"{text}\" is no origin; write it like https://app.example");
        let address = Address::parse(text).map_err(|_| wrong.clone())?;
        let plain = address.path == "/" && !text.ends_with('/') && !text.contains('?');
        if plain { Ok(text.to_string()) } else { Err(wrong) }
    };
    let items = field.list().unwrap_or_default();
    if items.is_empty() {
        field.problem("\"cors\" names no origin", "write cors = \"off\" for none");
    }
    *cors = Cors::Origins(items.iter().filter_map(|item| item.parse(origin)).collect());
}
