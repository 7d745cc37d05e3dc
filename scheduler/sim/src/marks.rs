//! How often each rare path was reached: a simulation that never gets there proves nothing about it.

use std::collections::BTreeMap;

/// A rare path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each name says which path it is")]
pub enum Mark {
    TaskSucceeded,
    TaskFailed,
    TaskCancelledWaiting,
    TaskCancelledRunning,
    TaskExpired,
    TenantRemoved,
    AttemptRetried,
    AttemptReturned,
    AttemptLost,
    TaskQuarantined,
    ReportLate,
    CheckpointSaved,
    AttemptUnready,
    UnreadyGivenUp,
    KeyRepeated,
    KeyConflict,
    KeyCheckStale,
    QuotaHit,
    ControlKilled,
    RecordLostInKill,
    RecordKeptInKill,
    ReplyLostInKill,
    HostKilled,
    HostPaused,
    HostCut,
    HostDrained,
    LeaseLost,
    MessageLost,
    MessageDoubled,
    AppendSlow,
    CancelOvertook,
    // Of clusters.
    ElectionWon,
    ElectionOvertaken,
    CampaignPhantom,
    CampaignFailed,
    SeatDeleted,
    CandidateLeaseLost,
    LeadershipLeaseLost,
    DeadlinePassedPaused,
    LeadershipRefused,
    AppendGivenUp,
    LeaderToldByHost,
    LeaderToldByLog,
    LeaderKilled,
    NodePaused,
    NodeCut,
    AckLost,
    AckDoubled,
    AckOfEarlierTry,
    ReadBackOwn,
    ReadBackForeign,
    PredecessorRefused,
    RecordCut,
    LogStopped,
    LogPowerLost,
    LogRecordStoredUntold,
    LogDiskFull,
    SnapshotTaken,
    SnapshotRead,
    SnapshotUnusable,
    LogTrimmed,
    FollowerOvertakenByTrim,
    EtcdLeaderChanged,
    EtcdQuorumLost,
    EtcdRestarted,
    WatchRelisted,
    HostLeaseExpired,
    HostKeyDeleted,
    HostKeyMissed,
    CommandForwarded,
    CommandNobodyLed,
    CommandRetried,
    CommandRetriedInNextTerm,
    CommandHeardTwice,
    CommandUnanswered,
    AnswerWaitedForRead,
    StaleLeaderRefused,
    StaleAckIgnored,
    TwoBelievedToLead,
    Disaster,
    ShortenedHalted,
    HoleHalted,
    TermRegressedHalted,
    HaltedStarted,
    ReadModelBehind,
    RemovalTakenUp,
}

/// All of them, for the check that none was missed.
pub const ALL: [Mark; 86] = [
    Mark::TaskSucceeded,
    Mark::TaskFailed,
    Mark::TaskCancelledWaiting,
    Mark::TaskCancelledRunning,
    Mark::TaskExpired,
    Mark::TenantRemoved,
    Mark::AttemptRetried,
    Mark::AttemptReturned,
    Mark::AttemptLost,
    Mark::TaskQuarantined,
    Mark::ReportLate,
    Mark::CheckpointSaved,
    Mark::AttemptUnready,
    Mark::UnreadyGivenUp,
    Mark::KeyRepeated,
    Mark::KeyConflict,
    Mark::KeyCheckStale,
    Mark::QuotaHit,
    Mark::ControlKilled,
    Mark::RecordLostInKill,
    Mark::RecordKeptInKill,
    Mark::ReplyLostInKill,
    Mark::HostKilled,
    Mark::HostPaused,
    Mark::HostCut,
    Mark::HostDrained,
    Mark::LeaseLost,
    Mark::MessageLost,
    Mark::MessageDoubled,
    Mark::AppendSlow,
    Mark::CancelOvertook,
    Mark::ElectionWon,
    Mark::ElectionOvertaken,
    Mark::CampaignPhantom,
    Mark::CampaignFailed,
    Mark::SeatDeleted,
    Mark::CandidateLeaseLost,
    Mark::LeadershipLeaseLost,
    Mark::DeadlinePassedPaused,
    Mark::LeadershipRefused,
    Mark::AppendGivenUp,
    Mark::LeaderToldByHost,
    Mark::LeaderToldByLog,
    Mark::LeaderKilled,
    Mark::NodePaused,
    Mark::NodeCut,
    Mark::AckLost,
    Mark::AckDoubled,
    Mark::AckOfEarlierTry,
    Mark::ReadBackOwn,
    Mark::ReadBackForeign,
    Mark::PredecessorRefused,
    Mark::RecordCut,
    Mark::LogStopped,
    Mark::LogPowerLost,
    Mark::LogRecordStoredUntold,
    Mark::LogDiskFull,
    Mark::SnapshotTaken,
    Mark::SnapshotRead,
    Mark::SnapshotUnusable,
    Mark::LogTrimmed,
    Mark::FollowerOvertakenByTrim,
    Mark::EtcdLeaderChanged,
    Mark::EtcdQuorumLost,
    Mark::EtcdRestarted,
    Mark::WatchRelisted,
    Mark::HostLeaseExpired,
    Mark::HostKeyDeleted,
    Mark::HostKeyMissed,
    Mark::CommandForwarded,
    Mark::CommandNobodyLed,
    Mark::CommandRetried,
    Mark::CommandRetriedInNextTerm,
    Mark::CommandHeardTwice,
    Mark::CommandUnanswered,
    Mark::AnswerWaitedForRead,
    Mark::StaleLeaderRefused,
    Mark::StaleAckIgnored,
    Mark::TwoBelievedToLead,
    Mark::Disaster,
    Mark::ShortenedHalted,
    Mark::HoleHalted,
    Mark::TermRegressedHalted,
    Mark::HaltedStarted,
    Mark::ReadModelBehind,
    Mark::RemovalTakenUp,
];

/// Counts by mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<Mark, u64>);

impl Marks {
    /// Reached once more.
    pub fn hit(&mut self, mark: Mark) {
        *self.0.entry(mark).or_default() += 1;
    }

    /// How often.
    pub fn count(&self, mark: Mark) -> u64 {
        self.0.get(&mark).copied().unwrap_or(0)
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            *self.0.entry(*mark).or_default() += count;
        }
    }

    /// Those that were never reached.
    pub fn missed(&self) -> Vec<Mark> {
        ALL.into_iter().filter(|mark| self.count(*mark) == 0).collect()
    }
}
