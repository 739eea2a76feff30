//! The table of keys: how each is read and printed, and its name in file, environment and flags.
//!
//! The reader, the printer, the environment variables and the documentation check are all derived from
//! this table.

use plimsoll_config::values::{quote, quote_filled, show_share, show_size};
use plimsoll_config::{Field, Place, Problems, Table, Variables, values};
use plimsoll_measure::Nanos;

use super::fields::{
    address, addresses, admin_tokens, cors, count, database, entry_variables, file, folder, hex,
    instances, label, list, log_file, pass_headers, path, set, size, span, time, trusted_proxies,
};
use super::show::show_headers;
use super::{Config, Draft, cache, traces, usage};
use crate::settings::Cors;
use crate::usage::money::{Money, Price};

/// Maximum number of worker threads; each has its own runtime.
const WORKERS_MAX: u64 = 256;

/// Larger numbers are assumed to be typos.
const COUNT_MAX: u64 = 10_000_000;
const HEADER_MAX: u64 = 16 << 20;
const CACHE_ENTRY_MAX: u64 = 1 << 30;

/// How a value is written in variables and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Bool,
    /// Comma-separated strings.
    List,
    /// A word, or comma-separated strings.
    WordOrList,
    /// Comma-separated `NAME=VALUE`, percent-encoded.
    Pairs,
}

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Name in the file: `KEY` or `TABLE.KEY`.
    pub path: &'static str,
    /// How it is written in variables and flags.
    pub form: Form,
    /// The environment variable, if it is not derived from the path.
    variable: Option<&'static str>,
    /// The flag, if any.
    pub flag: Option<&'static str>,
    /// Whether a running gateway applies a change.
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

    /// The environment variable: `PLIMSOLL_LIMITS_BODY`.
    pub fn variable(&self) -> String {
        match self.variable {
            Some(variable) => variable.into(),
            None => format!("PLIMSOLL_{}", self.path.replace('.', "_").to_ascii_uppercase()),
        }
    }

    /// The value as TOML, secrets redacted; `None` if there is none.
    pub fn show(&self, config: &Config) -> Option<String> {
        (self.show)(config)
    }

    /// The key's table (empty for the top level), and its name in the table.
    pub(super) fn table_and_name(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    /// A value from a variable or flag as a line of TOML.
    fn line(&self, value: &str) -> Result<String, String> {
        let list = || {
            let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
            format!("[{}]", items.map(quote).collect::<Vec<_>>().join(", "))
        };
        let value = match self.form {
            Form::Text => quote(value),
            Form::Number => match value.trim().parse::<u64>() {
                Ok(number) => number.to_string(),
                Err(_) => return Err(format!("\"{value}\" is not a whole number")),
            },
            Form::Bool => match value.trim() {
                value @ ("true" | "false") => value.into(),
                _ => return Err(format!("\"{value}\" is neither true nor false")),
            },
            Form::List => list(),
            Form::WordOrList if value.contains("://") => list(),
            Form::WordOrList => quote(value.trim()),
            Form::Pairs => traces::pairs(value)?,
        };
        Ok(format!("{} = {value}", self.path))
    }
}

/// Every key, in the order of printing: top-level keys first.
pub static KEYS: [Key; 58] = [
    Key::new(
        "listen",
        Form::List,
        |field, draft| {
            if let Some(listen) = addresses(field) {
                draft.config.listen = listen;
            }
        },
        |config| {
            let listen = config.listen.iter().map(|address| quote(&address.to_string()));
            (!config.listen.is_empty()).then(|| list(listen))
        },
    )
    .flag("--listen"),
    Key::new(
        "admin_listen",
        Form::Text,
        |field, draft| draft.config.admin_listen = address(field),
        |config| config.admin_listen.map(|address| quote(&address.to_string())),
    ),
    Key::new("admin_token_sha256", Form::List, admin_tokens, |config| {
        let tokens = &config.settings.admin_tokens;
        let shown = list(tokens.iter().map(|token| quote(&hex(token))));
        (!tokens.is_empty()).then_some(shown)
    })
    .reloads(),
    Key::new(
        "instance",
        Form::Text,
        |field, draft| draft.instance = field.text().and_then(|text| label(field, text.value)),
        |config| Some(quote_filled(&config.settings.instance)),
    )
    .flag("--instance")
    .reloads(),
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
    Key::new(
        "state_dir",
        Form::Text,
        |field, draft| draft.state_dir = folder(field, &draft.folder),
        |config| config.state_dir.as_deref().map(path),
    ),
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
    Key::new("entry_variables", Form::List, entry_variables, |config| {
        Some(list(config.entry_variables.as_ref()?.iter().map(|name| quote(name))))
    })
    .reloads(),
    Key::new("trusted_proxies", Form::List, trusted_proxies, |config| {
        Some(list(config.settings.trusted_proxies.iter().map(|net| quote(&net.to_string()))))
    })
    .reloads(),
    Key::new("pass_headers", Form::List, pass_headers, |config| {
        Some(list(config.settings.pass_headers.iter().map(|name| quote(name))))
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
        "gzip",
        Form::Bool,
        |field, draft| set(&mut draft.config.settings.gzip, field.boolean()),
        |config| Some(config.settings.gzip.to_string()),
    )
    .reloads(),
    Key::new(
        "drain",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.drain, field.duration().map(Nanos::from)),
        |config| Some(span(config.settings.drain)),
    )
    .reloads(),
    Key::new(
        "idle_close",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.idle_close, field.duration().map(Nanos::from));
        },
        |config| Some(span(config.settings.idle_close)),
    )
    .reloads(),
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
    ),
    Key::new(
        "traces.endpoint",
        Form::Text,
        |field, draft| draft.config.settings.traces.endpoint = traces::endpoint(field),
        |config| {
            let endpoint = config.settings.traces.endpoint.as_ref();
            endpoint.map(|endpoint| quote(&endpoint.url.shown))
        },
    )
    .variable_is("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    .reloads(),
    Key::new(
        "traces.headers",
        Form::Pairs,
        |field, draft| set(&mut draft.config.settings.traces.headers, traces::headers(field)),
        |config| show_headers(&config.settings.traces.headers),
    )
    .variable_is("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
    .reloads(),
    Key::new(
        "traces.service",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.traces.service, traces::service(field)),
        |config| Some(quote_filled(&config.settings.traces.service)),
    )
    .variable_is("OTEL_SERVICE_NAME")
    .reloads(),
    Key::new(
        "traces.sample",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.traces.sample, field.parse(values::share)),
        |config| Some(quote(&show_share(config.settings.traces.sample))),
    )
    .reloads(),
    Key::new(
        "traces.respect_parent",
        Form::Bool,
        |field, draft| set(&mut draft.config.settings.traces.respect_parent, field.boolean()),
        |config| Some(config.settings.traces.respect_parent.to_string()),
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
        "limits.calls",
        Form::Number,
        |field, draft| set(&mut draft.config.settings.limits.calls, count(field, COUNT_MAX)),
        |config| Some(config.settings.limits.calls.to_string()),
    )
    .reloads(),
    Key::new(
        "limits.calls_per_connection",
        Form::Number,
        |field, draft| {
            set(&mut draft.config.settings.limits.calls_per_connection, count(field, COUNT_MAX))
        },
        |config| Some(config.settings.limits.calls_per_connection.to_string()),
    )
    .reloads(),
    Key::new(
        "limits.calls_per_endpoint",
        Form::Number,
        |field, draft| {
            set(&mut draft.config.settings.limits.calls_per_endpoint, count(field, COUNT_MAX))
        },
        |config| Some(config.settings.limits.calls_per_endpoint.to_string()),
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
        "limits.memory",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.limits.memory, size(field, 1, u64::MAX >> 1)),
        |config| Some(quote(&show_size(config.settings.limits.memory))),
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
    ),
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
    Key::new(
        "limits.shared",
        Form::Bool,
        |field, draft| set(&mut draft.config.settings.limits.shared, field.boolean()),
        |config| Some(config.settings.limits.shared.to_string()),
    ),
    Key::new(
        "limits.replicas",
        Form::Number,
        |field, draft| {
            let replicas = field.integer(1, 10_000).map(|replicas| replicas as u32);
            set(&mut draft.config.settings.limits.replicas, replicas);
        },
        |config| Some(config.settings.limits.replicas.to_string()),
    ),
    Key::new(
        "cache.memory",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.cache.memory, size(field, 0, u64::MAX >> 1));
        },
        |config| Some(quote(&show_size(config.settings.cache.memory))),
    ),
    Key::new(
        "cache.entry",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.cache.entry, size(field, 1, CACHE_ENTRY_MAX));
        },
        |config| Some(quote(&show_size(config.settings.cache.entry))),
    ),
    Key::new(
        "cache.redis",
        Form::Text,
        |field, draft| draft.config.settings.cache.redis = cache::redis(field),
        |config| config.settings.cache.redis.as_ref().map(|url| quote(&url.shown)),
    )
    .variable_is("REDIS_URL"),
    Key::new(
        "cache.redis_timeout",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.cache.redis_timeout, cache::redis_timeout(field));
        },
        |config| Some(span(config.settings.cache.redis_timeout)),
    ),
    Key::new(
        "cache.static",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.cache.times.fixed, cache::time_to_live(field));
        },
        |config| Some(span(config.settings.cache.times.fixed)),
    )
    .reloads(),
    Key::new(
        "cache.immutable",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.cache.times.immutable, cache::time_to_live(field));
        },
        |config| Some(span(config.settings.cache.times.immutable)),
    )
    .reloads(),
    Key::new(
        "cache.final",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.cache.times.finalized, cache::time_to_live(field));
        },
        |config| Some(span(config.settings.cache.times.finalized)),
    )
    .reloads(),
    Key::new(
        "cache.young",
        Form::Text,
        |field, draft| {
            set(&mut draft.config.settings.cache.times.young, cache::time_to_live(field));
        },
        |config| Some(span(config.settings.cache.times.young)),
    )
    .reloads(),
    Key::new(
        "usage.keep",
        Form::Text,
        |field, draft| set(&mut draft.config.settings.usage.keep, usage::keep(field)),
        |config| Some(span(config.settings.usage.keep)),
    ),
    Key::new(
        "usage.spool",
        Form::Text,
        |field, draft| {
            let size = size(field, usage::SPOOL_MIN, u64::MAX >> 1);
            set(&mut draft.config.settings.usage.spool, size);
        },
        |config| Some(quote(&show_size(config.settings.usage.spool))),
    ),
    Key::new(
        "usage.price",
        Form::Text,
        |field, draft| draft.config.settings.usage.price = field.parse(Price::parse),
        |config| config.settings.usage.price.as_ref().map(|price| quote(&price.to_string())),
    )
    .reloads(),
    Key::new(
        "network.cupr",
        Form::Number,
        |field, draft| draft.config.settings.usage.network.cupr = usage::parameter(field),
        |config| config.settings.usage.network.cupr.map(|number| number.to_string()),
    )
    .reloads(),
    Key::new(
        "network.cuttm",
        Form::Number,
        |field, draft| draft.config.settings.usage.network.cuttm = usage::parameter(field),
        |config| config.settings.usage.network.cuttm.map(|number| number.to_string()),
    )
    .reloads(),
    Key::new(
        "network.cucg",
        Form::Number,
        |field, draft| draft.config.settings.usage.network.cucg = usage::parameter(field),
        |config| config.settings.usage.network.cucg.map(|number| number.to_string()),
    )
    .reloads(),
    Key::new(
        "network.pokt",
        Form::Text,
        |field, draft| draft.config.settings.usage.network.pokt = field.parse(Money::parse),
        |config| config.settings.usage.network.pokt.as_ref().map(|money| quote(&money.to_string())),
    )
    .reloads(),
];

/// The tables that contain keys.
const TABLES: [&str; 7] = ["tls", "access_log", "traces", "limits", "cache", "usage", "network"];

/// The keys that differ between two configurations and need a restart.
pub fn fixed_differences(running: &Config, read: &Config) -> Vec<&'static str> {
    let listeners = (running.listeners != read.listeners).then_some("[[listener]]");
    differences(running, read, false).chain(listeners).collect()
}

/// The keys that differ between two configurations and that a running gateway applies.
pub fn reloaded_differences(before: &Config, after: &Config) -> Vec<&'static str> {
    differences(before, after, true).collect()
}

fn differences(
    before: &Config,
    after: &Config,
    reloads: bool,
) -> impl Iterator<Item = &'static str> {
    let differs = move |key: &&Key| key.reloads == reloads && key.show(before) != key.show(after);
    KEYS.iter().filter(differs).map(|key| key.path)
}

/// Reads the keys of a document.
pub(super) fn read(root: &Table<'_>, draft: &mut Draft) {
    read_table(root, "", draft);
    for name in TABLES {
        let table = match name {
            "cache" => cache::table(root, "cache.memory = 0"),
            _ => root.field(name).and_then(|field| field.table(name)),
        };
        if let Some(table) = table {
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

/// Lines of TOML, each with the name of its variable or flag; and the problems of the others.
pub(super) type Lines = (Vec<(String, String)>, Problems);

/// The environment's settings. An empty variable counts as unset.
pub(super) fn environment(variables: &Variables) -> Lines {
    let named = KEYS.iter().filter_map(|key| {
        let variable = key.variable();
        let value = variables.get(&variable).filter(|value| !value.trim().is_empty())?;
        Some((variable.clone(), key, value.to_string()))
    });
    lines(named)
}

/// The flags' settings. A list's flag may be repeated.
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
