//! The servers start, stop, and come back with what they had.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use wasmill_fabric_testing::{
    EtcdCluster, EtcdOptions, EtcdServer, EtcdVersion, NatsCluster, NatsOptions, NatsServer, NatsVersion, Proxy,
    wait_until,
};

fn answers(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[test]
fn nats_starts_dies_and_starts_again_on_the_same_port() {
    for version in [NatsVersion::V2_9, NatsVersion::V2_15] {
        let mut server = NatsServer::start(&NatsOptions::new(version));
        let port = server.layout().port;
        assert!(answers(port));
        server.kill();
        assert!(!answers(port));
        server.restart();
        assert!(answers(port));
        server.terminate();
        assert!(!answers(port));
    }
}

#[test]
fn etcd_starts_dies_and_starts_again_on_the_same_port() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_5] {
        let mut server = EtcdServer::start(&EtcdOptions::new(version));
        server.kill();
        assert!(!answers(server.port()));
        server.restart();
        assert!(answers(server.port()));
    }
}

#[test]
fn three_of_each_find_each_other() {
    assert_eq!(NatsCluster::start(&NatsOptions::new(NatsVersion::V2_15)).urls().len(), 3);
    assert_eq!(EtcdCluster::start(&EtcdOptions::new(EtcdVersion::V3_5)).urls().len(), 3);
}

#[test]
fn a_server_ends_with_its_handle() {
    let server = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
    let (port, dir) = (server.layout().port, server.layout().dir.clone());
    drop(server);
    assert!(!answers(port) && !dir.exists());
}

#[test]
fn a_wire_holds_cuts_and_refuses() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let proxy = Proxy::start(listener.local_addr().expect("it is bound").port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Echoes for as long as it is asked to.
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let connect = || {
        let stream = TcpStream::connect(proxy.address()).expect("the proxy accepts");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("it is connected");
        stream
    };
    let mut stream = connect();
    let mut read = [0; 2];
    stream.write_all(b"ab").expect("it is connected");
    stream.read_exact(&mut read).expect("everything passes");

    for hold in [Proxy::hold_requests, Proxy::hold_answers] {
        hold(&proxy);
        stream.write_all(b"cd").expect("it is connected");
        assert!(stream.read_exact(&mut read).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        proxy.pass();
        stream.read_exact(&mut read).expect("what was held back comes");
        assert_eq!(&read, b"cd");
    }

    proxy.hold_answers();
    stream.write_all(b"ef").expect("it is connected");
    proxy.cut();
    assert!(matches!(stream.read(&mut read), Ok(0) | Err(_)));
    proxy.refuse();
    wait_until("new connections are closed", || matches!(connect().read(&mut read), Ok(0)));
    proxy.pass();
    let mut stream = connect();
    stream.write_all(b"gh").expect("it is connected");
    stream.read_exact(&mut read).expect("everything passes again");
    assert_eq!(&read, b"gh");
}
