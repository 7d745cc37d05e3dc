//! Every bound of a host, by name.

use wasmill_protocol::limits::{KIB, MIB};

/// The most attempts that wait on a host beyond its slots, so that short ones flow without a gap.
pub const PREFETCH_MAX: u32 = 1024;

/// How much work a host likes to have waiting, in milliseconds: longer would withhold attempts from
/// other hosts, shorter would leave slots idle during the way to the leader and back.
pub const PREFETCH_WORK_MS: u64 = 20;

/// How long the host measures before it adapts its prefetch, in milliseconds.
pub const PREFETCH_WINDOW_MS: u64 = 50;

/// Unready attempts of one tenant on a host. Its next ones are asked to go elsewhere, or to wait
/// with the leader; what is on its way already is taken all the same.
pub const UNREADY_PER_TENANT_MAX: usize = 64;

/// Unready attempts of all tenants on a host. One more is handed back.
pub const UNREADY_MAX: usize = 2_048;

/// How long an attempt may be unready, in milliseconds: as long as twenty modules take that are as
/// laborious as a module may be. Then it ends.
pub const UNREADY_MS_MAX: u64 = 600_000;

/// How many waiting attempts are looked at behind one that is too large for the memory that is
/// free.
pub const ADMISSION_SCAN_MAX: usize = 128;

/// How many of those are of one tenant, so that the others are looked at, too.
pub const ADMISSION_SCAN_OF_TENANT_MAX: usize = 32;

/// How many attempts may start past the one that came first, before it goes before all others.
pub const PASSED_MAX: u32 = 8;

/// Batches of reports that are sent and not acknowledged at any time, those that wait for being
/// sent again included.
pub const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// Reports in one batch.
pub const BATCH_REPORTS_MAX: usize = 512;

/// Bytes of one batch, estimated: far enough below 1 MiB, the usual limit of a bus, for names and
/// framing. Half of what the bus carries, where that is less.
pub const BATCH_BYTES_MAX: u64 = 512 * KIB;

/// The smallest limit of a bus that a host works with: the largest single report takes a third of
/// it.
pub const MESSAGE_BYTES_MIN: u64 = 512 * KIB;

/// Bytes that one attempt takes in a heartbeat, estimated from above; its progress takes as much
/// again, and its message.
pub const HEARTBEAT_ATTEMPT_BYTES: u64 = 96;

/// Bytes of reports that are not acknowledged. A host that holds more takes no new attempts.
///
/// Attempts that it holds already can still end, so the true bound is this and one largest report
/// for each held attempt.
pub const OUTBOX_BYTES_MAX: u64 = 64 * MIB;

/// Attempts over and done with whose ids are remembered, so that a delayed copy of their assignment
/// is recognised. A copy that is later still runs once more for nothing: the leader knows that the
/// attempt is over and drops what it hears.
pub const RECENT_MAX: usize = 65_536;

/// Attempts that were to be stopped before they came that are remembered: twice as many as a leader
/// has on one host at most. None of them is started.
pub const STOPPED_EARLY_MAX: usize = 8_192;

/// The wait before a failed batch is sent again is drawn from the half to the whole of this, in
/// milliseconds; doubles with each failure.
pub const RESEND_MS: u64 = 50;

/// Where the doubling of [`RESEND_MS`] ends, in milliseconds.
pub const RESEND_MS_MAX: u64 = 2_000;

/// How long the shell waits for the answer to a batch before it calls it failed, in milliseconds.
/// The leader answers once what follows from the reports is durable, so this is also how slow a
/// disk may be before reports travel twice.
pub const REPORT_TIMEOUT_MS: u64 = 5_000;

/// The time between two heartbeats, in milliseconds.
pub const HEARTBEAT_MS: u64 = 1_000;

/// The time between a heartbeat and one that a changed credit brings forward, in milliseconds.
pub const HEARTBEAT_EARLY_MS: u64 = 50;

/// How many heartbeats of a new life, or under a new leader, come faster: each after twice the wait
/// before it, from [`HEARTBEAT_EARLY_MS`] on. The leader may hear of a host from elsewhere only
/// after the first of them, and until it knows the credit it sends nothing.
pub const HEARTBEATS_FAST: u32 = 4;

/// Bytes of one progress message; what is longer is cut.
pub const PROGRESS_BYTES_MAX: usize = KIB as usize;
