//! A connection that listens for changes.

use std::sync::Arc;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::timeout;

use super::super::status::{OpenConnection, Status};
use super::session::{kind_of, no_answer};
use super::{CHANNEL, CONNECT_MAX, StoreErrorKind};

/// Listens for changes.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: PgListener,
    /// The number of the connection for statements that leads to the same server.
    pub(crate) session: u64,
    _open: OpenConnection,
}

impl Listener {
    pub(super) async fn start(
        options: PgConnectOptions,
        session: u64,
        status: &Arc<Status>,
    ) -> Result<Listener, StoreErrorKind> {
        // The driver's listener takes its connection from a pool; it holds no other.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_MAX)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options.disable_statement_logging());
        let start = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            status.count();
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        let started = timeout(CONNECT_MAX, start).await.map_err(|_| no_answer(CONNECT_MAX))?;
        let listener = started.map_err(kind_of)?;
        Ok(Listener { listener, session, _open: OpenConnection::count(status) })
    }

    /// Waits for a change; returns false once the connection is lost.
    pub(crate) async fn hear(&mut self) -> bool {
        let heard = matches!(self.listener.try_recv().await, Ok(Some(_)));
        // One look at the database covers all changes until now.
        while self.listener.next_buffered().is_some() {}
        heard
    }
}
