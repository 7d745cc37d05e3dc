//! A place for one thing that is waited for, among others.

use futures::future::BoxFuture;

/// Waits for what is in a slot, and empties it. Giving it up loses nothing.
pub(super) async fn ready<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(waited_for) => {
            let ready = waited_for.await;
            *slot = None;
            ready
        }
        None => std::future::pending().await,
    }
}
