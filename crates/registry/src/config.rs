//! The configuration: a file, the environment and flags, read into one [`Config`].
//!
//! Precedence: flags override the environment, which overrides the file, which overrides defaults. All
//! of them are read through one table of keys ([`KEYS`]), so that no layer lacks a key. Problems of all
//! layers are collected, each with its place: a line and column, a variable's name, or a flag.
//!
//! The database's entries are added by [`crate::sources`].

mod access;
mod cache;
mod entries;
mod fields;
mod keys;
mod show;
mod traces;
mod usage;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use plimsoll_config::{Document, Place, Problems, Table, Text, Variables, nearest};

pub use access::{show_date, show_key, show_limits};
pub(crate) use entries::{
    ParsedEntry, read_endpoint, read_service, read_upstream, unknown_service,
    unknown_service_shown_as,
};
pub use keys::{Form, KEYS, Key, fixed_differences, reloaded_differences};
pub use show::{show_endpoint, show_service, show_upstream};

use crate::model::{Address, Definitions, Kind, Service, Upstream, check_id};
use crate::settings::{Faces, Listener, Settings, TlsFiles, overlap};
use entries::ParsedEntries;

/// The file that is read if `--config` is not given and this file exists.
pub const FILE_DEFAULT: &str = "gateway.toml";

/// The database that is used if none is configured.
const DATABASE_DEFAULT: &str = "sqlite:plimsoll.db";

/// What to do at startup about a file that cannot be read.
pub(crate) const OTHER_FILE: &str = "choose another file with --config";

/// The complete configuration of a gateway, without the database's entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Process settings.
    pub settings: Settings,
    /// `listen` as given: listeners for callers.
    pub listen: Vec<SocketAddr>,
    /// `admin_listen` as given.
    pub admin_listen: Option<SocketAddr>,
    /// The file's `[[listener]]` tables.
    pub listeners: Vec<Listener>,
    /// Whether the built-in services are included.
    pub built_in_services: bool,
    /// The variables that entries of the database may name, each perhaps with `*` at its end; `None`: any
    /// but the gateway's own.
    pub entry_variables: Option<Vec<String>>,
    /// PATH instances, which serve every service.
    pub instances: Vec<Upstream>,
    /// Definitions from the file's tables and from flags; they reference only services defined here or
    /// built in.
    pub definitions: Definitions,
    /// The database with further definitions, if any.
    pub database: Option<Database>,
    /// The folder of the snapshot of a database server; `None`: the configuration file's.
    pub state_dir: Option<PathBuf>,
    /// Notes for the user that are not problems.
    pub notes: Vec<String>,
}

/// The location of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The URL, with an absolute path.
    pub url: Text,
    /// Whether the database was configured. If the default one cannot be created, the gateway runs
    /// without a database.
    pub named: bool,
}

/// The inputs of a configuration.
#[derive(Clone, Default)]
pub struct Inputs {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment; also the source of `${NAME}`.
    pub variables: Variables,
    /// Flags and their values, such as `("--listen", "127.0.0.1:0")`: those of [`KEYS`] and
    /// `--upstream`.
    pub flags: Vec<(&'static str, String)>,
}

/// Prints flags without their values, which may contain secrets.
impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags: Vec<&str> = self.flags.iter().map(|(flag, _)| *flag).collect();
        f.debug_struct("Inputs")
            .field("file", &self.file)
            .field("variables", &self.variables)
            .field("flags", &flags)
            .finish()
    }
}

impl Inputs {
    /// The file's text, if there is one; `hint` is what to do if it cannot be read.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn read_file(&self, hint: &str) -> Result<Option<String>, Problems> {
        let Some(path) = &self.file else { return Ok(None) };
        std::fs::read_to_string(path).map(Some).map_err(|error| {
            let mut problems = Problems::default();
            let place = Place::Named(path.display().to_string());
            problems.note(place, format!("cannot be read: {error}"), hint);
            problems
        })
    }
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(inputs: &Inputs) -> Result<Config, Problems> {
        Config::read_with(inputs, inputs.read_file(OTHER_FILE)?.as_deref())
    }

    /// Reads a configuration whose file holds `text`.
    pub(crate) fn read_with(inputs: &Inputs, text: Option<&str>) -> Result<Config, Problems> {
        let mut draft = Draft::new();
        let mut problems = Problems::default();
        let mut read = |draft: &mut Draft, document: Document| {
            let mut parsed = false;
            let done = document.read(&inputs.variables, |root| {
                parsed = true;
                keys::read(root, draft);
                draft.entries.read(root, &draft.folder);
                Some(())
            });
            if let Err(found) = done {
                problems.append(found);
            }
            parsed
        };
        let mut parsed = true;
        if let Some((path, text)) = inputs.file.as_ref().zip(text) {
            draft.folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
            draft.database_folder = draft.folder.clone();
            parsed = read(&mut draft, Document::new(path.display().to_string(), text));
        }
        draft.folder = PathBuf::new();
        let (lines, wrong_for_traces) = traces::environment(&inputs.variables);
        read(&mut draft, Document::from_named(lines));
        let (lines, wrong) = keys::environment(&inputs.variables);
        read(&mut draft, Document::from_named(lines));
        let (lines, also_wrong) = keys::flags(&inputs.flags);
        read(&mut draft, Document::from_named(lines));
        [wrong_for_traces, wrong, also_wrong].into_iter().for_each(|found| problems.append(found));
        add_upstreams_of_flags(&mut draft, inputs, &mut problems);
        draft.check(parsed, &mut problems);
        let notes = misspelt(&inputs.variables);
        let systemd = inputs.variables.get("STATE_DIRECTORY").filter(|folders| !folders.is_empty());
        if problems.is_empty() { Ok(draft.finish(notes, systemd)) } else { Err(problems.sorted()) }
    }

    /// All listeners. The listeners for callers also serve operators unless there is a separate admin
    /// listener.
    pub(crate) fn all_listeners(&self) -> Vec<Listener> {
        let has_admin =
            self.admin_listen.is_some() || self.listeners.iter().any(|one| one.faces.admin);
        let faces = Faces { admin: !has_admin, ..Faces::ALL };
        let callers =
            self.listen.iter().map(|address| Listener { faces, ..Listener::at(*address) });
        let admin = self.admin_listen.map(|address| Listener {
            address,
            faces: Faces { admin: true, ..Faces::NONE },
            tls: false,
        });
        callers.chain(self.listeners.iter().copied()).chain(admin).collect()
    }

    /// The top-level keys of the file; tables that contain several keys are repeated.
    pub fn top_level_keys() -> impl Iterator<Item = &'static str> + Clone {
        let top = |known: &Key| match known.table_and_name() {
            ("", name) => name,
            (table, _) => table,
        };
        KEYS.iter().map(top).chain(["listener", "service", "upstream", "endpoint"])
    }

    /// The services that exist without the database: the file's, and the built-in ones that the file
    /// does not replace.
    pub(crate) fn services(&self) -> Vec<Service> {
        let own = &self.definitions.services;
        let mut services = if self.built_in_services { Service::built_in() } else { Vec::new() };
        services.retain(|service| own.iter().all(|other| other.id != service.id));
        services.extend(own.iter().cloned());
        services
    }
}

/// The default instance name: the host's name and a port.
pub fn instance_name(port: u16) -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{}:{port}", host.as_deref().unwrap_or("localhost"))
}

/// The upstream for a PATH instance's URL; its id contains its number in the list. The path defaults to
/// `/v1`.
pub(crate) fn instance(mut url: Text, number: usize) -> Result<Upstream, String> {
    let mut address = match url.unset {
        Some(_) => Address::parse("http://unset.invalid/v1")?,
        None => Address::parse(&url.value)?,
    };
    if address.path == "/" {
        address.path = "/v1".into();
        for text in [&mut url.value, &mut url.shown] {
            *text = format!("{}/v1", text.trim_end_matches('/'));
        }
    }
    let id = format!("path-{number}");
    Ok(Upstream::at(id, Kind::Path, url, address))
}

/// A configuration that is being read.
struct Draft {
    config: Config,
    instance: Option<String>,
    database: Option<Text>,
    state_dir: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    entries: ParsedEntries,
    /// Where each key was last given.
    places: BTreeMap<&'static str, Place>,
    /// Relative paths in the layer being read start here.
    folder: PathBuf,
    /// The folder of the default database.
    database_folder: PathBuf,
}

impl Draft {
    fn new() -> Draft {
        Draft {
            config: Config {
                settings: Settings::default(),
                listen: Vec::new(),
                admin_listen: None,
                listeners: Vec::new(),
                built_in_services: true,
                entry_variables: None,
                instances: Vec::new(),
                definitions: Definitions::default(),
                database: None,
                state_dir: None,
                notes: Vec::new(),
            },
            instance: None,
            database: None,
            state_dir: None,
            tls_cert: None,
            tls_key: None,
            entries: ParsedEntries::default(),
            places: BTreeMap::new(),
            folder: PathBuf::new(),
            database_folder: PathBuf::new(),
        }
    }

    /// Checks that need all layers. `parsed`: whether the file was parsed, so that its tables are known.
    fn check(&self, parsed: bool, problems: &mut Problems) {
        let one_of_two = match (self.places.get("tls.cert"), self.places.get("tls.key")) {
            (Some(place), None) => Some((place, "a certificate without its key", "tls.key")),
            (None, Some(place)) => Some((place, "a key without its certificate", "tls.cert")),
            _ => None,
        };
        if let Some((place, message, missing)) = one_of_two {
            problems.note(place.clone(), message, format!("set \"{missing}\" too"));
        }
        let instances = &self.config.instances;
        for (at, instance) in instances.iter().enumerate() {
            if instances[..at].iter().any(|other| other.address == instance.address) {
                let place = self.places.get("instances").cloned();
                let message = format!("the instance {} is listed twice", instance.url.shown);
                problems.note(place.unwrap_or(Place::Named("instances".into())), message, "");
            }
        }
        let ids: Vec<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
        self.check_listeners(problems);
        cache::check(&self.config.settings.cache, |key| self.places.get(key).cloned(), problems);
        usage::check(&self.config.settings.usage, |key| self.places.get(key).cloned(), problems);
        self.entries.check(self.config.built_in_services, &ids, parsed, problems);
        let own = self.addresses();
        self.entries.check_loops(&own, problems);
        for instance in instances {
            if let Some(own) = own.iter().find(|own| entries::leads_to(&instance.address, **own)) {
                let place = self.places.get("instances").cloned();
                let message = format!("the instance {own} is this gateway itself");
                problems.note(
                    place.unwrap_or(Place::Named("instances".into())),
                    message,
                    "list the PATH instances' addresses",
                );
            }
        }
        if self.database.as_ref().is_some_and(|url| url.value == "off") {
            self.entries.check_agreement(instances.len(), problems);
        }
    }

    /// The addresses that the gateway will listen on.
    fn addresses(&self) -> Vec<SocketAddr> {
        let own = self.entries.listeners.iter().map(|own| own.listener.address);
        let mut all: Vec<SocketAddr> = self.config.listen.iter().copied().chain(own).collect();
        if all.is_empty() {
            all.extend(Settings::default().listeners.iter().map(|one| one.address));
        }
        all.extend(self.config.admin_listen);
        all
    }

    /// Checks listeners against each other and against the rest of the configuration.
    fn check_listeners(&self, problems: &mut Problems) {
        let place = |key| self.places.get(key).cloned().unwrap_or(Place::Named(String::from(key)));
        let listen = self.config.listen.iter().map(|address| (*address, place("listen")));
        let admin = self.config.admin_listen.map(|address| (address, place("admin_listen")));
        let own = self.entries.listeners.iter();
        let own = own.map(|own| (own.listener.address, own.place.clone()));
        let mut seen: Vec<SocketAddr> = Vec::new();
        for (address, place) in listen.chain(own).chain(admin) {
            if let Some(other) = seen.iter().find(|other| overlap(**other, address)) {
                let message = if *other == address {
                    format!("{address} is listed twice")
                } else {
                    format!("{address} overlaps {other}, which is listed too")
                };
                problems.note(place, message, "");
            }
            seen.push(address);
        }
        for own in &self.entries.listeners {
            if self.config.admin_listen.is_some() && own.listener.faces.admin {
                let message = "this listener has the face \"admin\", and admin_listen is set: \
                               operators' pages are served at admin_listen only";
                problems.note(own.place.clone(), message, "remove one of the two");
            }
            if let Some(place) = &own.wants_tls
                && !self.places.contains_key("tls.cert")
            {
                let message = "tls = true, but the gateway has no certificate";
                problems.note(place.clone(), message, "set [tls] cert and key");
            }
        }
    }

    /// `systemd`: the folder that systemd made for the unit, if there is one.
    fn finish(mut self, notes: Vec<String>, systemd: Option<&str>) -> Config {
        let mut config = self.config;
        let own = self.entries.listeners.drain(..).map(|own| own.listener);
        config.listeners = own.collect();
        if config.listen.is_empty() && config.listeners.is_empty() {
            config.listen = Settings::default().listeners.iter().map(|one| one.address).collect();
        }
        config.settings.listeners = config.all_listeners();
        let port = config.settings.listeners.first().map_or(0, |one| one.address.port());
        config.settings.instance = self.instance.unwrap_or_else(|| instance_name(port));
        config.settings.tls =
            self.tls_cert.zip(self.tls_key).map(|(cert, key)| TlsFiles { cert, key });
        config.definitions = self.entries.definitions();
        config.database = match self.database {
            Some(url) if url.value == "off" => None,
            Some(url) => Some(Database { url, named: true }),
            None => {
                let url = fields::absolute_database(DATABASE_DEFAULT, &self.database_folder);
                Some(Database { url: Text::plain(url), named: false })
            }
        };
        // systemd separates several folders with colons.
        let systemd = systemd.and_then(|folders| folders.split(':').next()).map(PathBuf::from);
        config.state_dir = self.state_dir.or(systemd);
        config.notes = notes;
        config
    }
}

/// `--upstream SERVICE=URL`: like `[[upstream]]`, with the service and a number as id.
fn add_upstreams_of_flags(draft: &mut Draft, inputs: &Inputs, problems: &mut Problems) {
    for (flag, value) in inputs.flags.iter().filter(|(flag, _)| *flag == "--upstream") {
        let document = Document::from_named([(flag.to_string(), upstream_line(value))]);
        let read = document.read(&inputs.variables, |root: &Table<'_>| {
            let field = root.field("upstream")?;
            let text = field.text()?;
            let hint = "write it like --upstream eth=http://127.0.0.1:8545";
            let split = text.value.split_once('=').zip(text.shown.split_once('='));
            let Some(((service, value), (_, shown))) =
                split.filter(|((service, _), _)| check_id(service).is_ok())
            else {
                let shown = text.hiding_all_but_words_of_url().shown;
                field.problem(format!("\"{shown}\" is not SERVICE=URL"), hint);
                return None;
            };
            let url = Text { value: value.into(), shown: shown.into(), unset: text.unset.clone() };
            let url = url.hiding_all_but_words_of_url();
            let address = match Address::parse(value) {
                Ok(address) => address,
                Err(message) => {
                    // The message contains the form of a URL.
                    field.problem(message, "");
                    return None;
                }
            };
            let same = |one: &&ParsedEntry<Upstream>| one.id.starts_with(&format!("{service}-"));
            let number = draft.entries.upstreams.iter().filter(same).count() + 1;
            let id = format!("{service}-{number}");
            let upstream = Upstream {
                service: Some(service.into()),
                ..Upstream::at(id.clone(), Kind::Evm, url, address)
            };
            let place = field.place();
            let service = Some((service.to_string(), place.clone()));
            draft.entries.upstreams.push(ParsedEntry { id, place, service, item: Some(upstream) });
            Some(())
        });
        if let Err(found) = read {
            problems.append(found);
        }
    }
}

fn upstream_line(value: &str) -> String {
    format!("upstream = {}", plimsoll_config::values::quote(value))
}

/// Notes on `PLIMSOLL_` variables that look like misspelt settings. Not problems, because other
/// programs set variables with this prefix too (Kubernetes does for a service named plimsoll).
fn misspelt(variables: &Variables) -> Vec<String> {
    // The regular names, also of keys whose variable is named differently.
    let regular: Vec<(String, &Key)> =
        KEYS.iter().map(|key| (key.path.replace('.', "_").to_ascii_uppercase(), key)).collect();
    let note = |given: &str| {
        let name = given.strip_prefix("PLIMSOLL_")?;
        let near = nearest(name, regular.iter().map(|(name, _)| name.as_str()))?;
        let (_, key) = regular.iter().find(|(name, _)| name == near)?;
        let meant = key.variable();
        (meant != given)
            .then(|| format!("the variable {given} is not a setting; did you mean {meant}?"))
    };
    variables.names().filter_map(note).collect()
}

#[cfg(test)]
mod tests;
