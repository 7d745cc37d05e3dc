//! Chunks that nothing describes: what is left when a process dies in the middle of storing a blob.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use super::Parts;
use crate::uptime;

/// Uploads that nothing describes: the last chunk of each, and the uptime when that was first seen
/// to be the last. No wall clock has a part in it.
pub(super) type Orphans = BTreeMap<String, (u64, Duration)>;

/// Nobody stores a blob for this long.
pub(super) const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3_600);
/// How often they are looked for, by every control node.
const LOOK_INTERVAL: Duration = Duration::from_secs(6 * 3_600);

/// Removes them until nobody uses the blobs any more.
pub(super) async fn remove_now_and_then(parts: Weak<Parts>) {
    let mut seen = Orphans::new();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(parts) = parts.upgrade() else { return };
        match parts.store.remove_orphans(&mut seen, Duration::from_micros(uptime::now_us())).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed parts of blobs that were never finished"),
            Err(error) => tracing::warn!("{}", crate::cluster::error::chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_nats::jetstream;
    use wasmill_fabric_testing::{NatsOptions, NatsServer, NatsVersion};
    use wasmill_protocol::Digest;

    use super::super::store::{StoreOptions, open_or_create};
    use crate::cluster::nats::Nats;
    use crate::cluster::{ClusterConfig, EtcdConfig, NatsConfig};

    #[tokio::test]
    async fn what_a_dead_process_has_left_goes_and_what_is_described_stays() {
        let server = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
        let config = ClusterConfig {
            cluster: "orphans".parse().unwrap(),
            member: "node-1".parse().unwrap(),
            nats: NatsConfig { urls: vec![server.url()], ..NatsConfig::default() },
            etcd: EtcdConfig::default(),
            lease_ms: 5_000,
        };
        let nats = Nats::connect(&config).await.unwrap();
        let context = jetstream::new(nats.client().clone());
        let options = StoreOptions { bucket: "b".to_owned(), replicas: 1, urls: Vec::new() };
        let store = open_or_create(nats, context.clone(), options, true).await.unwrap().unwrap();
        let bytes = b"a blob".as_slice();
        let digest = super::super::digest_of(bytes);
        let stat = store.put(digest, bytes.len() as u64, &mut &*bytes).await.unwrap();
        context.publish("$O.b.C.abandoned", "a part".into()).await.unwrap().await.unwrap();

        let (mut seen, hour) = (super::Orphans::new(), Duration::from_secs(3_600));
        // Too young to tell.
        assert_eq!(store.remove_orphans(&mut seen, hour).await.unwrap(), 0);
        assert_eq!(store.remove_orphans(&mut seen, super::ORPHAN_AGE).await.unwrap(), 0);
        // It goes on.
        context.publish("$O.b.C.abandoned", "another part".into()).await.unwrap().await.unwrap();
        assert_eq!(store.remove_orphans(&mut seen, super::ORPHAN_AGE + hour).await.unwrap(), 0);
        let later = 2 * super::ORPHAN_AGE + hour;
        assert_eq!(store.remove_orphans(&mut seen, later).await.unwrap(), 1);
        assert_eq!(store.remove_orphans(&mut seen, later).await.unwrap(), 0);
        assert_eq!(store.stat(digest).await.unwrap(), stat);
        assert!(store.stat(Digest([9; 32])).await.is_err());
        let mut left = context.get_stream("OBJ_b").await.unwrap();
        assert_eq!(left.info().await.unwrap().state.messages, 2, "a chunk and its description");
    }
}
