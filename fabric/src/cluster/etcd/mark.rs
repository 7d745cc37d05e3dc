//! What etcd remembers of the log: that there is one, which one, and how far it went.

use std::rc::Rc;

use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use wasmill_protocol::LogSeq;

use super::{Etcd, EtcdThread, told};

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

impl EtcdThread {
    /// The mark, if there is one.
    pub(in crate::cluster) async fn log_mark(&self) -> Result<Option<LogMark>, String> {
        self.run(|etcd| async move { Ok(etcd.read_mark().await?.map(|(mark, _)| mark)) }).await
    }

    /// Raises the mark of a log to `mark`, never lowers it; gives the mark that stands then. A mark of another log is left alone.
    pub(in crate::cluster) async fn raise_log_mark(&self, mark: LogMark) -> Result<LogMark, String> {
        self.run(|etcd| etcd.raise_mark(mark)).await
    }
}

impl Etcd {
    fn mark_key(&self) -> String {
        format!("{}/log", self.prefix)
    }

    /// The mark and its revision.
    async fn read_mark(&self) -> Result<Option<(LogMark, i64)>, String> {
        let found = self.asking.kv_client().get(self.mark_key(), None).await.map_err(|error| told(&error))?;
        let decode = |kv: &KeyValue| match serde_json::from_slice(kv.value()) {
            Ok(mark) => Ok((mark, kv.mod_revision())),
            Err(error) => Err(format!("`{}` in etcd is damaged: {error}", self.mark_key())),
        };
        found.kvs().first().map(decode).transpose()
    }

    async fn raise_mark(self: Rc<Self>, mark: LogMark) -> Result<LogMark, String> {
        let value = serde_json::to_vec(&mark).map_err(|error| error.to_string())?;
        for _ in 0..TRIES {
            let revision = match self.read_mark().await? {
                Some((found, _)) if found.stream != mark.stream || found.last_seq >= mark.last_seq => return Ok(found),
                Some((_, revision)) => revision,
                None => 0,
            };
            let key = self.mark_key();
            let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
            let txn = Txn::new().when([unchanged]).and_then([TxnOp::put(key, value.clone(), None)]);
            if self.asking.kv_client().txn(txn).await.map_err(|error| told(&error))?.succeeded() {
                return Ok(mark);
            }
        }
        Err("others write the mark of the log all the time".to_owned())
    }
}
