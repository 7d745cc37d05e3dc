//! The traits over NATS JetStream and etcd.

mod blobs;
