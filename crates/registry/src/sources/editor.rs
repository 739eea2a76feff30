//! Reads and changes the database on request: for the command line, and for a running gateway's admin
//! API.
//!
//! A change is validated against one state of the database and applied only to that state; if another
//! writer was faster, it is validated again.

use std::sync::Arc;

use plimsoll_config::Variables;
use plimsoll_measure::WallClock;

use super::change::{REQUESTS_MAX, check, check_new_keys, decide_all, refused};
use super::feed::View;
use super::listing::Lister;
use super::{ChangeError, Definitions, Listing, LoadError, Outcome, Request, Selection, join};
use crate::config::{Config, Database, Inputs};
use crate::store::{Applied, Entries, EntryKind, Status, Store, StoreError, StoreErrorKind};
use crate::usage::{Counts, Subject, UsageQuery};

/// Reads and changes entries.
#[derive(Clone, Debug)]
pub struct Editor {
    inputs: Inputs,
    /// The open database, if there is one.
    store: Option<Arc<Store>>,
    /// What the gateway beside knows of a database server; reading needs no more.
    view: Option<View>,
    /// The database according to the last configuration read.
    database: Option<Database>,
    /// What was last read from the database.
    known: Arc<Entries>,
    status: Arc<Status>,
}

impl Editor {
    /// An editor of its own; nothing is read yet.
    pub fn new(inputs: Inputs) -> Editor {
        Editor::beside(inputs, None, None, Arc::default())
    }

    /// An editor of a database that is open already.
    pub(super) fn beside(
        inputs: Inputs,
        store: Option<Arc<Store>>,
        view: Option<View>,
        status: Arc<Status>,
    ) -> Editor {
        Editor { inputs, store, view, database: None, known: Arc::default(), status }
    }

    /// Makes changes, all or none; creates the database if it does not exist. New entries are checked by
    /// resolving them with `variables`, and stored with their placeholders.
    ///
    /// # Errors
    /// Why the requests were rejected; nothing was changed then, unless the database says that the
    /// outcome is uncertain.
    pub async fn change(
        &mut self,
        requests: &[Request],
        variables: &Variables,
    ) -> Result<Vec<Outcome>, ChangeError> {
        match requests {
            // Nothing need be read to reject it.
            [request] => check(request, variables)?,
            _ if requests.len() > REQUESTS_MAX => {
                let count = requests.len();
                let message =
                    format!("{count} changes at once; at most {REQUESTS_MAX} are accepted");
                return refused(message, "make them in several steps");
            }
            _ => {}
        }
        check_new_keys(requests, variables, WallClock::now())?;
        let config = self.read()?;
        let Some(store) = self.open(true).await? else {
            let hint = "choose a database: --database sqlite:plimsoll.db";
            return refused("the configuration has database = \"off\"".into(), hint);
        };
        let mut entries = Entries::default();
        loop {
            store.refresh(&mut entries).await?;
            let (changes, outcomes) = decide_all(requests, &config, &entries.entries, variables)?;
            if changes.is_empty() {
                return Ok(outcomes);
            }
            if let Applied::Done(sequence) = store.apply(&changes, entries.sequence).await? {
                if let Some(view) = &mut self.view {
                    view.reach(sequence).await;
                }
                return Ok(outcomes);
            }
        }
    }

    /// Lists the entries of a kind, including disabled and invalid ones. Does not create the database.
    ///
    /// # Errors
    /// If the configuration or the database cannot be read.
    pub async fn list(&mut self, kind: EntryKind) -> Result<Listing, LoadError> {
        let config = self.read()?;
        let entries = self.entries().await?;
        let named = self.database.as_ref().filter(|database| database.named);
        let missing = named.filter(|_| self.store.is_none()).map(|found| found.url.shown.clone());
        let entries = self.lister(&config, &entries).list(kind, |_| true);
        Ok(Listing { entries, missing })
    }

    /// Lists the entries that `picks` returns true for; it is asked for each entry, by its place among
    /// those of all kinds, sorted by kind and id, and its id. The others are not even parsed, so that a
    /// page costs what its own entries cost. Does not create the database.
    ///
    /// # Errors
    /// As for [`Editor::list`].
    pub async fn select(
        &mut self,
        only: Option<EntryKind>,
        mut picks: impl FnMut(usize, &str) -> bool,
    ) -> Result<Selection, LoadError> {
        let config = self.read()?;
        let entries = self.entries().await?;
        let lister = self.lister(&config, &entries);
        let mut selection = Selection { entries: Vec::new(), total: 0 };
        for kind in EntryKind::ALL.into_iter().filter(|kind| only.is_none_or(|only| only == *kind))
        {
            let listed = lister.list(kind, |id| {
                selection.total += 1;
                picks(selection.total - 1, id)
            });
            selection.entries.extend(listed.into_iter().map(|entry| (kind, entry)));
        }
        Ok(selection)
    }

    /// The database's entries as they are stored, with the secrets that are written out in them.
    ///
    /// # Errors
    /// If there is no database ([`StoreErrorKind::Missing`]), or it cannot be used.
    pub async fn stored(&mut self) -> Result<Arc<Entries>, LoadError> {
        self.read()?;
        if self.open(false).await?.is_none() {
            return Err(self.missing().into());
        }
        Ok(self.entries().await?)
    }

    fn lister<'e>(&'e self, config: &'e Config, entries: &'e Entries) -> Lister<'e> {
        Lister::new(config, &entries.entries, &self.inputs.variables, self.shown())
    }

    /// Reads and joins everything, as a gateway does. Does not create the database.
    ///
    /// # Errors
    /// All problems.
    pub async fn load(&mut self) -> Result<(Config, Definitions), LoadError> {
        let config = self.read()?;
        let entries = self.entries().await?;
        let definitions =
            join::join(&config, &entries.entries, &self.inputs.variables, self.shown())?;
        Ok((config, definitions))
    }

    /// The sums that a question asks for ([`Store::usage`]).
    ///
    /// # Errors
    /// If there is no database ([`StoreErrorKind::Missing`]), or it cannot be used.
    pub async fn usage(
        &mut self,
        query: &UsageQuery,
    ) -> Result<Vec<(Subject, Counts)>, StoreError> {
        match self.open(false).await? {
            Some(store) => store.usage(query).await,
            None => Err(self.missing()),
        }
    }

    /// The variables of `${NAME}`.
    pub fn variables(&self) -> &Variables {
        &self.inputs.variables
    }

    /// The database's URL without secrets; `None` if there is no database or nothing was read yet.
    pub fn database(&self) -> Option<&str> {
        self.database.as_ref().map(|database| database.url.shown.as_str())
    }

    /// Closes the database; not one that a gateway uses.
    pub async fn close(self) {
        if let Some(store) = self.store {
            store.close().await;
        }
    }

    fn read(&mut self) -> Result<Config, LoadError> {
        let config = Config::read(&self.inputs)?;
        self.database = config.database.clone();
        Ok(config)
    }

    /// The database's entries; empty if there is no database.
    async fn entries(&mut self) -> Result<Arc<Entries>, StoreError> {
        if let Some(entries) = self.view.as_ref().and_then(View::entries) {
            return Ok(entries);
        }
        let store = match self.open(false).await {
            Ok(store) => store,
            // A server without our tables is like a file that does not exist.
            Err(StoreError { kind: StoreErrorKind::Missing, .. }) => None,
            Err(error) => return Err(error),
        };
        match store {
            Some(store) => {
                store.refresh(Arc::make_mut(&mut self.known)).await?;
                Ok(self.known.clone())
            }
            None => Ok(Arc::default()),
        }
    }

    /// The database, if there is one; opens it if necessary.
    async fn open(&mut self, create: bool) -> Result<Option<Arc<Store>>, StoreError> {
        if let (None, Some(database)) = (&self.store, &self.database) {
            let url = database.usable_url()?;
            if create || Store::exists(url) {
                let store = Store::open(url, create, self.status.clone()).await?;
                self.store = Some(Arc::new(store));
            }
        }
        Ok(self.store.clone())
    }

    fn missing(&self) -> StoreError {
        StoreError { database: self.shown().into(), kind: StoreErrorKind::Missing }
    }

    /// The database's name in problems.
    fn shown(&self) -> &str {
        self.database().unwrap_or("the database")
    }
}
