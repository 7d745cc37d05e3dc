//! The mark of the log in etcd: that there is one, which one, and how far it went.

use std::rc::Rc;

use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use wasmill_protocol::LogSeq;

use super::{Etcd, EtcdError, EtcdThread, MarkError};

/// How often a mark is written while others write it too.
const TRIES: u32 = 3;

/// The mark of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cluster) struct LogMark {
    /// The id of its stream.
    pub(in crate::cluster) stream: String,
    /// A record that was durable.
    pub(in crate::cluster) last_seq: LogSeq,
}

impl LogMark {
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| unreachable!("a mark can be encoded: {error}"))
    }
}

impl EtcdThread {
    /// The mark, if there is one.
    pub(in crate::cluster) async fn log_mark(&self) -> Result<Option<LogMark>, MarkError> {
        self.run(|etcd| async move { Ok(etcd.read_mark().await?.map(|(mark, _)| mark)) }).await
    }

    /// Raises the mark of a log to `mark`, never lowers it; gives the mark that stands then. A mark
    /// of another log is left alone.
    pub(in crate::cluster) async fn raise_log_mark(&self, mark: LogMark) -> Result<LogMark, MarkError> {
        self.run(|etcd| etcd.raise_mark(mark)).await
    }
}

impl Etcd {
    fn mark_key(&self) -> String {
        format!("{}/log", self.prefix)
    }

    /// The mark and its revision.
    async fn read_mark(&self) -> Result<Option<(LogMark, i64)>, MarkError> {
        let found = self.asking.kv_client().get(self.mark_key(), None).await.map_err(EtcdError::from)?;
        let decode = |kv: &KeyValue| match serde_json::from_slice(kv.value()) {
            Ok(mark) => Ok((mark, kv.mod_revision())),
            Err(source) => Err(MarkError::Damaged { key: self.mark_key(), source }),
        };
        found.kvs().first().map(decode).transpose()
    }

    async fn raise_mark(self: Rc<Self>, mark: LogMark) -> Result<LogMark, MarkError> {
        let value = mark.encode();
        for _ in 0..TRIES {
            let revision = match self.read_mark().await? {
                Some((found, _)) if found.stream != mark.stream || found.last_seq >= mark.last_seq => return Ok(found),
                Some((_, revision)) => revision,
                None => 0,
            };
            let key = self.mark_key();
            let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
            let txn = Txn::new().when([unchanged]).and_then([TxnOp::put(key, value.clone(), None)]);
            if self.asking.kv_client().txn(txn).await.map_err(EtcdError::from)?.succeeded() {
                return Ok(mark);
            }
        }
        Err(MarkError::Contended { tries: TRIES })
    }
}
