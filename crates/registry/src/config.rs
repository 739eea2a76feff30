//! The configuration: a file, the environment and flags, read into one [`Config`].
//!
//! Defaults, then the file, then the environment, then flags: what comes later goes before. All of
//! them are read by the same table of keys ([`KEYS`]), so that no key is known in one place only.
//! Problems are gathered over all of them, each with its place: a line and column, a variable's
//! name, a flag.
//!
//! What is in the database is not here: [`crate::sources`] joins it.

mod entries;
mod fields;
mod keys;
mod show;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use plimsoll_config::{Document, Place, Problems, Table, Text, Variables, nearest};

pub(crate) use entries::{Outlined, read_endpoint, read_service, read_upstream, unknown_service};
pub use keys::{Form, KEYS, Key, fixed_differences};
pub use show::{show_endpoint, show_service, show_upstream};

use crate::model::{Address, Definitions, Kind, Service, Upstream, check_id};
use crate::settings::{Faces, Listener, Settings, TlsFiles};
use entries::Outlines;

/// The file that is read when none is named and it is there.
pub const FILE_DEFAULT: &str = "gateway.toml";

/// The database that is used when none is named.
const DATABASE_DEFAULT: &str = "sqlite:plimsoll.db";

/// Everything that a gateway is told outside the database.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How the process works.
    pub settings: Settings,
    /// `listen` as it was given: listeners for callers.
    pub listen: Vec<SocketAddr>,
    /// `admin_listen` as it was given.
    pub admin_listen: Option<SocketAddr>,
    /// The file's `[[listener]]` tables.
    pub listeners: Vec<Listener>,
    /// Whether the services that are built in are there.
    pub built_in_services: bool,
    /// PATH instances, which serve whatever service they are asked for.
    pub instances: Vec<Upstream>,
    /// What the file's tables and flags define; each names services of its own or built-in ones.
    pub definitions: Definitions,
    /// Where more definitions are; `None`: nowhere.
    pub database: Option<Database>,
    /// What a person should be told although it is no problem.
    pub notes: Vec<String>,
}

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its URL, paths absolute.
    pub url: Text,
    /// Whether it was named. A gateway goes without one that was not, where it cannot be made.
    pub named: bool,
}

/// What a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment; `${NAME}` is filled in from it too.
    pub variables: Variables,
    /// Flags and their values: `("--listen", "127.0.0.1:0")`. Those of [`KEYS`], and
    /// `("--upstream", "SERVICE=URL")`.
    pub flags: Vec<(&'static str, String)>,
}

impl Inputs {
    /// The file's text, if there is one.
    ///
    /// # Errors
    /// That it cannot be read.
    pub(crate) fn read_file(&self) -> Result<Option<String>, Problems> {
        let Some(path) = &self.file else { return Ok(None) };
        std::fs::read_to_string(path).map(Some).map_err(|error| {
            let mut problems = Problems::default();
            let place = Place::Named(path.display().to_string());
            problems.note(place, format!("cannot be read: {error}"), "name another with --config");
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
        Config::read_with(inputs, inputs.read_file()?.as_deref())
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
                draft.outlines.read(root, &draft.folder);
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
        let (lines, wrong) = keys::environment(&inputs.variables);
        read(&mut draft, Document::from_named(lines));
        let (lines, also_wrong) = keys::flags(&inputs.flags);
        read(&mut draft, Document::from_named(lines));
        problems.append(wrong);
        problems.append(also_wrong);
        add_upstreams_of_flags(&mut draft, inputs, &mut problems);
        draft.check(parsed, &mut problems);
        let notes = misspelt(&inputs.variables);
        match problems.is_empty() {
            true => Ok(draft.finish(notes)),
            false => Err(problems.sorted()),
        }
    }

    /// All listeners. Operators are answered where callers are, unless there is another place for
    /// them.
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

    /// Whether a key may stand at the top of the file.
    pub fn has_key(key: &str) -> bool {
        let in_table = |known: &Key| match known.table_and_name() {
            ("", name) => name == key,
            (table, _) => table == key,
        };
        KEYS.iter().any(in_table) || ["listener", "service", "upstream", "endpoint"].contains(&key)
    }

    /// The services that exist whatever the database says: the file's, and those built in which it
    /// does not replace.
    pub(crate) fn services(&self) -> Vec<Service> {
        let own = &self.definitions.services;
        let mut services = if self.built_in_services { Service::built_in() } else { Vec::new() };
        services.retain(|service| own.iter().all(|other| other.id != service.id));
        services.extend(own.iter().cloned());
        services
    }
}

/// What a gateway calls itself when it is not told: the host's name and a port.
pub fn instance_name(port: u16) -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{}:{port}", host.as_deref().unwrap_or("localhost"))
}

/// Takes the URL of a PATH instance for an upstream, named by its number in the list; where there is
/// no path, `/v1` is meant.
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
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    outlines: Outlines,
    /// Where each key was given last.
    places: BTreeMap<&'static str, Place>,
    /// Relative paths of what is being read are seen from here.
    folder: PathBuf,
    /// The default database lies here.
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
                instances: Vec::new(),
                definitions: Definitions::default(),
                database: None,
                notes: Vec::new(),
            },
            instance: None,
            database: None,
            tls_cert: None,
            tls_key: None,
            outlines: Outlines::default(),
            places: BTreeMap::new(),
            folder: PathBuf::new(),
            database_folder: PathBuf::new(),
        }
    }

    /// What can be seen only when everything was read. `parsed`: the file's tables are known.
    fn check(&self, parsed: bool, problems: &mut Problems) {
        let one_of_two = match (self.places.get("tls.cert"), self.places.get("tls.key")) {
            (Some(place), None) => Some((place, "a certificate without its key", "tls.key")),
            (None, Some(place)) => Some((place, "a key without its certificate", "tls.cert")),
            _ => None,
        };
        if let Some((place, message, missing)) = one_of_two {
            problems.note(place.clone(), message, format!("give \"{missing}\" too"));
        }
        let instances = &self.config.instances;
        for (at, instance) in instances.iter().enumerate() {
            if instances[..at].iter().any(|other| other.address == instance.address) {
                let place = self.places.get("instances").cloned();
                let message = format!("the instance {} is named twice", instance.url.shown);
                problems.note(place.unwrap_or(Place::Named("instances".into())), message, "");
            }
        }
        let ids: Vec<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
        self.check_listeners(problems);
        self.outlines.check(self.config.built_in_services, &ids, parsed, problems);
    }

    /// Checks listeners against each other and against the rest of the configuration.
    fn check_listeners(&self, problems: &mut Problems) {
        let place = |key| self.places.get(key).cloned().unwrap_or(Place::Named(String::from(key)));
        let listen = self.config.listen.iter().map(|address| (*address, place("listen")));
        let admin = self.config.admin_listen.map(|address| (address, place("admin_listen")));
        let own = self.outlines.listeners.iter();
        let own = own.map(|own| (own.listener.address, own.place.clone()));
        let mut seen: Vec<SocketAddr> = Vec::new();
        for (address, place) in listen.chain(own).chain(admin) {
            if address.port() != 0 && seen.contains(&address) {
                problems.note(place, format!("{address} is named twice"), "");
            }
            seen.push(address);
        }
        for own in &self.outlines.listeners {
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

    fn finish(mut self, notes: Vec<String>) -> Config {
        let mut config = self.config;
        let own = self.outlines.listeners.drain(..).map(|own| own.listener);
        config.listeners = own.collect();
        if config.listen.is_empty() && config.listeners.is_empty() {
            config.listen = Settings::default().listeners.iter().map(|one| one.address).collect();
        }
        config.settings.listeners = config.all_listeners();
        let port = config.settings.listeners.first().map_or(0, |one| one.address.port());
        config.settings.instance = self.instance.unwrap_or_else(|| instance_name(port));
        config.settings.tls =
            self.tls_cert.zip(self.tls_key).map(|(cert, key)| TlsFiles { cert, key });
        config.definitions = self.outlines.definitions();
        config.database = match self.database {
            Some(url) if url.value == "off" => None,
            Some(url) => Some(Database { url, named: true }),
            None => {
                let url = fields::absolute_database(DATABASE_DEFAULT, &self.database_folder);
                Some(Database { url: Text::plain(url), named: false })
            }
        };
        config.notes = notes;
        config
    }
}

/// `--upstream SERVICE=URL`: the same as `[[upstream]]` with an id made of the service and a number.
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
                field.problem(format!("\"{}\" is not SERVICE=URL", text.shown), hint);
                return None;
            };
            let url = Text { value: value.into(), shown: shown.into(), unset: text.unset.clone() };
            let url = url.hiding_keys_of_url();
            let address = match Address::parse(value) {
                Ok(address) => address,
                Err(message) => {
                    field.problem(message, hint);
                    return None;
                }
            };
            let same = |one: &&Outlined<Upstream>| one.id.starts_with(&format!("{service}-"));
            let number = draft.outlines.upstreams.iter().filter(same).count() + 1;
            let id = format!("{service}-{number}");
            let upstream = Upstream {
                service: Some(service.into()),
                ..Upstream::at(id.clone(), Kind::Evm, url, address)
            };
            let place = field.place();
            let service = Some((service.to_string(), place.clone()));
            draft.outlines.upstreams.push(Outlined { id, place, service, item: Some(upstream) });
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

/// Variables that are no setting but look like one. They are no problem: other programs put
/// variables of this prefix into the environment too (Kubernetes does, for a service called
/// plimsoll).
fn misspelt(variables: &Variables) -> Vec<String> {
    // Also of keys whose variable has a name of its own.
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
