//! A few connections that read, each used by one query at a time on a thread that may block.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ReadError, store};

/// Queries that run at once; more would only take turns on the cores.
const READERS: usize = 4;

/// The connections. They are opened when they are first needed.
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Arc::default(), turns: Arc::new(Semaphore::new(READERS)) }
    }

    /// Waits for the queries that run, closes their connections, and lets no other one begin while the answer is held: the file can be
    /// replaced meanwhile.
    pub(super) async fn pause(&self) -> OwnedSemaphorePermit {
        let turns = Arc::clone(&self.turns).acquire_many_owned(READERS as u32).await;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        turns.expect("the semaphore is never closed")
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a query when it is its turn. It runs to its end also when the caller stops waiting.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        action: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let work = move || {
            let _turn = turn;
            let waiting = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match waiting {
                Some(connection) => connection,
                None => store::open_reader(&path)?,
            };
            let result = query(&connection);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| ReadError::Storage { action, source: error.into() })?
            .map_err(|error| ReadError::Storage { action, source: error.into() })
    }
}
