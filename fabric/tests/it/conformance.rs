//! Runs every suite against one implementation.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use wasmill_fabric::{Blobs, Bus, Log, Membership};

/// No condition that a test waits for takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A fresh and empty implementation of all four traits.
pub(crate) struct Fixture {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) membership: Arc<dyn Membership>,
    /// The parts that must live as long: a directory, server processes.
    pub(crate) _keep: Box<dyn Any + Send + Sync>,
}

/// Waits for `future`, and fails when it takes too long.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} took more than {PATIENCE:?}"),
    }
}

/// One test for every case of every suite; `$fixture` is an `async fn() -> Fixture`.
macro_rules! conformance {
    ($fixture:path) => {
        crate::conformance::log_conformance!($fixture);
        crate::conformance::blobs_conformance!($fixture);
        crate::conformance::cases!($fixture, bus: [
            a_request_is_answered,
            nobody_to_ask_is_an_error,
            a_dropped_request_and_a_silent_subscriber_are_no_answer,
            a_publication_reaches_every_subscriber_of_its_subject,
            a_full_queue_loses_messages_and_refuses_requests,
            a_dropped_subscription_is_gone,
            a_star_stands_for_any_last_part,
            a_message_over_the_limit_is_refused,
            what_is_shared_goes_to_one_of_those_who_share,
        ]);
        crate::conformance::membership_conformance!($fixture);
    };
}

/// The cases that are about the log.
macro_rules! log_conformance {
    ($fixture:path) => {
        crate::conformance::cases!($fixture, log: [
            an_empty_log_ends_at_zero,
            records_are_numbered_and_read_back,
            a_wrong_expectation_is_a_conflict_and_writes_nothing,
            the_call_fixes_the_order_and_not_the_poll,
            what_was_called_after_a_failure_fails,
            nothing_follows_a_record_that_was_refused_before_it_was_sent,
            a_record_over_the_limit_is_refused,
            a_tail_waits_for_what_is_appended_later,
            a_tail_that_begins_in_the_future_waits,
            two_tails_read_the_same_while_records_are_appended,
            trimmed_records_are_missing_and_the_numbering_goes_on,
        ]);
    };
}

/// The cases that are about membership.
macro_rules! membership_conformance {
    ($fixture:path) => {
        crate::conformance::cases!($fixture, membership: [
            terms_grow,
            a_leadership_is_not_lost_by_itself,
            hosts_that_live_are_told_first,
            joining_and_leaving_are_told,
            a_new_life_replaces_the_old_one,
            a_released_registration_is_gone,
        ]);
    };
}

/// The cases that are about blobs.
macro_rules! blobs_conformance {
    ($fixture:path) => {
        crate::conformance::cases!($fixture, blobs: [
            bytes_are_read_back_by_digest,
            chunks_make_the_same_blob_as_one_piece,
            an_unknown_digest_is_unknown,
            a_blob_over_the_readers_limit_is_not_read,
            what_is_not_kept_is_not_visible,
            a_dropped_writer_leaves_nothing,
            storing_twice_is_fine_and_deleting_twice_too,
            a_young_blob_survives_the_sweep,
            b39_what_is_not_needed_goes_at_once_unless_it_was_stored_again,
            every_blob_is_listed,
            two_writers_of_the_same_bytes_both_succeed,
            a_blob_being_written_can_be_inspected,
        ]);
    };
}

macro_rules! cases {
    ($fixture:path, $suite:ident: [$($case:ident),* $(,)?]) => {
        mod $suite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let fixture = $fixture().await;
                    crate::conformance::within(stringify!($case), crate::$suite::$case(&fixture)).await;
                }
            )*
        }
    };
}

pub(crate) use {blobs_conformance, cases, conformance, log_conformance, membership_conformance};
