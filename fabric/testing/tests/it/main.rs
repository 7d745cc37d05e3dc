//! The servers start, die and come back.

use std::net::TcpStream;

use wasmill_fabric_testing::{Etcd, EtcdOptions, Nats, NatsOptions, Release};

fn check(release: Release) {
    let mut nats = Nats::start(release, &NatsOptions::durable());
    let connects = |nats: &Nats| TcpStream::connect(("127.0.0.1", nats.port())).is_ok();
    assert!(connects(&nats));
    nats.process.kill();
    assert!(!connects(&nats));
    nats.restart();
    assert!(connects(&nats));
    assert!(nats.monitoring("/jsz").expect("it answers").contains("\"store_dir\""));
    nats.process.stop();

    let mut etcd = Etcd::start(release, &EtcdOptions::default());
    etcd.process.kill();
    etcd.restart();
    etcd.process.pause();
    etcd.process.resume();
    etcd.process.stop();
}

#[test]
fn old_servers_start_and_come_back() {
    check(Release::Old);
}

#[test]
fn new_servers_start_and_come_back() {
    check(Release::New);
}

#[test]
fn a_cluster_lives_without_one_of_its_members() {
    let mut nats = Nats::start_cluster(Release::New, &NatsOptions::durable(), 3);
    let mut etcd = Etcd::start_cluster(Release::New, &EtcdOptions::default(), 3);
    nats[0].process.kill();
    etcd[0].process.kill();
    nats[1].wait();
    etcd[1].wait();
    nats[0].restart();
    etcd[0].restart();
}
