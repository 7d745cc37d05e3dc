//! Two processes with one id: hosts, and control nodes.

use std::time::Duration;

use futures::FutureExt;
use futures::StreamExt;
use wasmill_fabric::cluster::{ClusterConfig, ConnectError};
use wasmill_fabric::{HostEvent, MembershipError};
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Incarnation};

use super::servers::{Pair, control, host, member};
use crate::conformance::within;

fn info(incarnation: u64, process: u64) -> HostInfo {
    HostInfo { id: HostId::from("a"), incarnation: Incarnation(incarnation), process, ..HostInfo::default() }
}

/// The host that has the id, for a process that was refused.
fn taken(refused: Result<wasmill_fabric::HostRegistration, MembershipError>) -> HostInfo {
    match refused {
        Err(MembershipError::Taken { by }) => *by,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f53_a_host_whose_id_another_process_takes_is_told_by_whom() {
    for pair in [Pair::old(), Pair::new()] {
        let config = pair.config("a");
        let (first, second) = (host(&config).await.fabric.membership, host(&config).await.fabric.membership);
        let (cluster, _dir) = control(&member(&config, "node-1")).await;
        let mut hosts = cluster.fabric.membership.hosts();
        let mut old = first.register(info(5, 70)).await.unwrap();
        assert_eq!(within("it joins", hosts.next()).await, Some(HostEvent::Joined(info(5, 70))));

        // In the same life or an earlier one the later process is told in which one the other is.
        for life in [1, 5] {
            assert_eq!(taken(second.register(info(life, 71)).await), info(5, 70));
        }
        let mut new = second.register(info(6, 71)).await.unwrap();
        within("the loss is told", old.lost.wait_for(|lost| *lost)).await.unwrap();
        assert_eq!(old.replaced_by.get(), Some(&info(6, 71)));
        // One life after the other, and not a host that has left in between.
        assert_eq!(within("it joins", hosts.next()).await, Some(HostEvent::Joined(info(6, 71))));

        // A host that was replaced does not come back while the other one lives, in whatever life.
        assert_eq!(taken(first.register_if_free(info(9, 70)).await), info(6, 71));
        assert!(new.lost.changed().now_or_never().is_none());
        new.lease.release().await;
        let mut again = first.register_if_free(info(9, 70)).await.unwrap();
        // Its own key under an older lease is nobody else's.
        let _later = first.register_if_free(info(10, 70)).await.unwrap();
        within("the loss is told", again.lost.wait_for(|lost| *lost)).await.unwrap();
        assert_eq!(again.replaced_by.get(), Some(&info(10, 70)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f53_a_second_control_node_of_one_name_is_told_and_the_first_is_not() {
    let config = ClusterConfig { lease_ms: 2_000, ..Pair::new().config("node-1") };
    let (first, _dir) = control(&config).await;
    let undisturbed = first.name_taken();
    // It has the name before anybody else asks for it.
    let mut etcd = etcd_client::Client::connect([Pair::new().etcd.url()], None).await.unwrap();
    let key = format!("/wasmill/{}/nodes/node-1", config.cluster);
    within("the name is held", async { while etcd.get(key.clone(), None).await.unwrap().kvs().is_empty() {} }).await;
    let (second, _dir) = control(&config).await;
    let error = within("the second one is told", second.name_taken()).await;
    assert!(matches!(error, ConnectError::NameTaken { .. }));
    assert!(error.to_string().contains("another control node of cluster"), "{error}");
    assert!(error.to_string().contains("is named `node-1`"), "{error}");
    assert!(undisturbed.now_or_never().is_none());

    // One that ends in order leaves its name to the next one.
    drop((first, second));
    within("the name is free", async {
        while !etcd.get(key.clone(), None).await.unwrap().kvs().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (third, _dir) = control(&config).await;
    assert!(third.name_taken().now_or_never().is_none());
}
