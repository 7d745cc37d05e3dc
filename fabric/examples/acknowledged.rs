//! Appends records to a NATS server as the log does, and prints the number of each once it is
//! acknowledged; or counts those that are there. `cargo xtask power` takes the power from the
//! server meanwhile: `cargo run --example acknowledged -- append|count URL`.

use std::error::Error;
use std::future::IntoFuture as _;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType, Stream};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;

const STREAM: &str = "power-loss";
/// Appends on their way at the same time, as many as a leader has.
const IN_FLIGHT: usize = 2;
/// A record of some events.
const RECORD_BYTES: usize = 2_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, url] = arguments.as_slice() else { return Err("usage: acknowledged append|count URL".into()) };
    let context = jetstream::new(async_nats::connect(url).await?);
    match what.as_str() {
        "append" => append(&context).await,
        "count" => {
            println!("{}", count(context.get_stream(STREAM).await).await);
            Ok(())
        }
        other => Err(format!("`{other}` is neither append nor count").into()),
    }
}

/// Never ends by itself: the server does.
async fn append(context: &jetstream::Context) -> Result<(), Box<dyn Error>> {
    let subjects = vec![STREAM.to_owned()];
    let config = Config { name: STREAM.to_owned(), subjects, storage: StorageType::File, ..Config::default() };
    context.create_stream(config).await?;
    let mut appends = FuturesOrdered::new();
    let mut last = 0;
    loop {
        while appends.len() < IN_FLIGHT {
            let message = PublishMessage::build().payload(record(last + 1)).message_id(format!("1/{}", last + 1));
            let append = context.send_publish(STREAM, message.expected_last_sequence(last)).await?;
            last += 1;
            appends.push_back(append.into_future());
        }
        if let Some(acknowledged) = appends.next().await {
            println!("{}", acknowledged?.sequence);
        }
    }
}

/// How many records there are from the first one on, each with the bytes that were stored.
async fn count(stream: Result<Stream, impl Error>) -> u64 {
    // A stream that is gone has no record.
    let Ok(stream) = stream else { return 0 };
    let mut count = 0;
    while let Ok(message) = stream.get_raw_message(count + 1).await {
        if message.payload != record(count + 1) {
            break;
        }
        count += 1;
    }
    count
}

/// Bytes that no other record has.
fn record(sequence: u64) -> Bytes {
    sequence.to_le_bytes().repeat(RECORD_BYTES / 8).into()
}
