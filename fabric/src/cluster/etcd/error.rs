//! Why etcd could not be asked, and what its answers cannot be used for.

use std::time::Duration;

use thiserror::Error;
use wasmill_protocol::Term;

/// A request to etcd has failed.
#[derive(Debug, Error)]
pub(in crate::cluster) enum EtcdError {
    /// Nothing can be asked any more.
    #[error("the thread for leases has ended")]
    ThreadEnded,
    /// etcd is silent.
    #[error("no answer in {timeout:?}")]
    NoAnswer {
        /// How long the request has waited.
        timeout: Duration,
    },
    /// etcd has answered that it cannot, or will not.
    #[error("{message} ({code})")]
    Answered {
        /// The message of etcd.
        message: String,
        /// The name of its code.
        code: String,
    },
    /// The client could not bring the request to etcd.
    #[error(transparent)]
    Client(etcd_client::Error),
    /// The user of the configuration has no right to a key.
    #[error("etcd does not let user `{user}` read or write `{key}`")]
    Denied {
        /// Which user.
        user: String,
        /// Which key.
        key: String,
        /// The answer of etcd.
        source: Box<EtcdError>,
    },
    /// The configuration has no user, and etcd wants one for a key.
    #[error("etcd lets nobody without a user read or write `{key}`")]
    DeniedToAll {
        /// Which key.
        key: String,
        /// The answer of etcd.
        source: Box<EtcdError>,
    },
}

impl From<etcd_client::Error> for EtcdError {
    /// Takes away the frame that the client puts around what etcd has said.
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => {
                Self::Answered { message: status.message().to_owned(), code: status.code().to_string() }
            }
            error => Self::Client(error),
        }
    }
}

impl EtcdError {
    /// The failure of a request that reads or writes `key`: it names `user` when etcd has refused
    /// that one.
    pub(super) fn of_key(user: Option<&str>, key: &str, error: etcd_client::Error) -> Self {
        let source = Box::new(Self::from(error));
        if !source.to_string().contains("permission denied") {
            return *source;
        }
        let key = key.to_owned();
        match user {
            Some(user) => Self::Denied { user: user.to_owned(), key, source },
            None => Self::DeniedToAll { key, source },
        }
    }
}

/// The mark of the log could not be read or raised.
#[derive(Debug, Error)]
pub(in crate::cluster) enum MarkError {
    /// etcd could not be asked.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The value of the key is no mark.
    #[error("`{key}` in etcd is damaged")]
    Damaged {
        /// Its key.
        key: String,
        /// The error of the decoder.
        source: serde_json::Error,
    },
    /// Each try met another one.
    #[error("others write the mark of the log all the time: {tries} tries have failed")]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
}

/// A seat could not be won or checked.
#[derive(Debug, Error)]
pub(super) enum SeatError {
    /// etcd could not be asked.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The election has a winner without a key.
    #[error("etcd names no leader")]
    NoLeader,
    /// The election was won by another key than that of this lease.
    #[error("etcd names `{key}` as our seat")]
    OtherSeat {
        /// Which.
        key: String,
    },
    /// A revision of etcd that is no term.
    #[error("etcd names {revision} as a revision")]
    NoTerm {
        /// Which.
        revision: i64,
    },
    /// A term that is no revision of etcd.
    #[error("{term} is no revision")]
    NoRevision {
        /// Which.
        term: Term,
    },
}

/// A keepalive has failed.
#[derive(Debug, Error)]
pub(super) enum KeepAliveError {
    /// etcd could not be asked.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// etcd, or the connection to it, has gone.
    #[error("the stream has ended")]
    Ended,
}

/// The hosts could not be listed, or the watch of them is over.
#[derive(Debug, Error)]
pub(super) enum WatchError {
    /// etcd could not be asked.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The watch began before the revision at which the hosts were listed.
    #[error(
        "etcd is at revision {revision}, and the hosts were listed at {listed}: it was restored, or that server is behind"
    )]
    Behind {
        /// Where etcd is.
        revision: i64,
        /// Where it was.
        listed: i64,
    },
    /// Changes that were not seen yet are gone.
    #[error("it was cancelled, compacted up to {revision}")]
    Compacted {
        /// The changes that are left begin after this revision.
        revision: i64,
    },
    /// The connection was lost, or etcd has stopped.
    #[error("it has ended")]
    Ended,
}
