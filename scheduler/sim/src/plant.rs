//! Bugs that are planted on purpose, each of which the simulator must catch.

/// A planted bug. Each breaks the shell of one process, or what passes between a shell and its core, the way a plausible mistake would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Clients are answered before the record is durable.
    ReplyBeforeDurable,
    /// Hosts are sent assignments before the record is durable.
    SendBeforeDurable,
    /// Reports are acknowledged before the record is durable.
    AckBeforeDurable,
    /// An overview is told before the record is durable that it rests on.
    OverviewBeforeDurable,
    /// What waits for a decision that was cut in two is carried out after its first half.
    CutAnsweredEarly,
    /// A leader that is asked to stop does not wait for what is under way.
    StopsAtOnce,
    /// A snapshot is named after the record that follows it.
    SnapshotMisnamed,
    /// The log is trimmed to the newest snapshot, as if none could be damaged.
    TrimmedTooFar,
    /// Each message to a host leaves as soon as its payloads are there, whatever was decided before.
    PostUnordered,
    /// A late report is taken for one of the current attempt.
    NonceIgnored,
    /// The last record is not read at restart.
    ReplayStopsShort,
    /// A retry after the task's own failure is not counted.
    RetryUncounted,
    /// A final event is written twice.
    FinalTwice,
    /// A report is acknowledged although nobody read it.
    ReportSwallowed,
    /// A host runs an assignment again that it has run already.
    HostForgetsRecent,
    /// A host starts a guest although it has said that its module is not ready.
    UnreadyStarted,
    /// A message for an earlier life of a host is taken by the current one.
    IncarnationIgnored,
    /// A look-up of an idempotency key claims to be newer than it was.
    KeyLookupOld,
    /// A client is told that its task is cancelled when it was only asked to stop.
    CancelAnsweredEarly,
    /// The time is what the wall clock shows, whatever speaks against it.
    WallClockTrusted,
    /// The wall clock is looked at once, when a process starts.
    ClockSetUnnoticed,
    /// How much time has passed since the last record is measured by the wall clock.
    PassedByWallClock,
    /// What is over is counted by the wall clock.
    SweptByWallClock,
    /// A candidate that is told that it was elected believes it without the guarded write.
    CampaignTrusted,
    /// A lease is counted from when the answer to a keepalive arrives, not from when it was asked.
    DeadlineFromReceipt,
    /// A node that cannot renew its lease does not look at the deadline.
    NodeDeadlineIgnored,
    /// A host that cannot renew its lease goes on with its guests.
    HostDeadlineIgnored,
    /// An append that is tried again is sent under another id.
    AppendRenamed,
    /// A refused append is taken for a lost leadership without a look at what stands in its place.
    ConflictWithoutReadBack,
    /// An append is sent behind another one that has no outcome yet, without naming it.
    PredecessorUnnamed,
    /// What waits for a record is sent although the record was refused.
    EffectsAfterRefusal,
    /// A new leader appends at the end of the log and has not read all of it.
    EndUnread,
    /// A term that the election gives for the second time is made greater instead of halting.
    TermMadeUp,
    /// A node goes on although the log ends before what it has seen.
    ShortenedAccepted,
    /// A node reads over a record that is not there, or does not follow.
    HoleAccepted,
    /// A follower answers before it has read the record of the answer.
    FollowerAnswersEarly,
    /// A command that was not answered is sent again, and with a new identity.
    RepeatWithoutIdentity,
    /// A command of another node that comes twice is decided twice.
    ForwardTakenTwice,
    /// A leader does not name the commands of other nodes in its records.
    CommandUnnamed,
    /// A command whose leader is gone is asked of the next one, whatever the log says of it.
    FateUnread,
    /// A command of which the log does not tell what became of it is taken for one that was not done.
    FateGuessed,
    /// A leader forgets an answer while the node that has asked may ask for it again.
    AnswerForgotten,
    /// A watch that broke goes on from now, without a look at what was missed.
    WatchGapIgnored,
    /// A leader does not look whose a later life of a host is.
    RivalUnseen,
    /// A host takes messages of a leader that was replaced.
    HostTrustsStaleLeader,
    /// A host takes the acknowledgement of a leader that was replaced.
    StaleAckTrusted,
    /// A host forgets the cancel of an attempt that it does not know yet.
    HostForgetsCancels,
    /// A follower takes a record into its state, and waits for its read model before it shows the record: given up, it never does.
    ReadBeforeWait,
    /// An answer of a policy is taken for one to the question that was asked last, whichever seat
    /// has asked.
    AnswerOfOlderSeat,
    /// A host's memory is promised twice.
    MemoryPromisedTwice,
    /// A new leader does not ask what runs of removed tenants to stop.
    RemovalNotTakenUp,
}

impl Plant {
    /// All that can be caught on a single machine.
    pub const ALL: [Self; 21] = [
        Self::ReplyBeforeDurable,
        Self::SendBeforeDurable,
        Self::AckBeforeDurable,
        Self::OverviewBeforeDurable,
        Self::StopsAtOnce,
        Self::PostUnordered,
        Self::NonceIgnored,
        Self::ReplayStopsShort,
        Self::RetryUncounted,
        Self::FinalTwice,
        Self::ReportSwallowed,
        Self::HostForgetsRecent,
        Self::UnreadyStarted,
        Self::IncarnationIgnored,
        Self::KeyLookupOld,
        Self::CancelAnsweredEarly,
        Self::HostForgetsCancels,
        Self::ClockSetUnnoticed,
        Self::PassedByWallClock,
        Self::AnswerOfOlderSeat,
        Self::MemoryPromisedTwice,
    ];

    /// Those that need several control nodes to do harm.
    pub const OF_CLUSTERS: [Self; 30] = [
        Self::WallClockTrusted,
        Self::SweptByWallClock,
        Self::CampaignTrusted,
        Self::DeadlineFromReceipt,
        Self::NodeDeadlineIgnored,
        Self::HostDeadlineIgnored,
        Self::AppendRenamed,
        Self::ConflictWithoutReadBack,
        Self::PredecessorUnnamed,
        Self::EffectsAfterRefusal,
        Self::EndUnread,
        Self::TermMadeUp,
        Self::ShortenedAccepted,
        Self::HoleAccepted,
        Self::FollowerAnswersEarly,
        Self::RepeatWithoutIdentity,
        Self::ForwardTakenTwice,
        Self::CommandUnnamed,
        Self::FateUnread,
        Self::FateGuessed,
        Self::AnswerForgotten,
        Self::WatchGapIgnored,
        Self::RivalUnseen,
        Self::HostTrustsStaleLeader,
        Self::StaleAckTrusted,
        Self::RemovalNotTakenUp,
        Self::ReadBeforeWait,
        Self::CutAnsweredEarly,
        Self::SnapshotMisnamed,
        Self::TrimmedTooFar,
    ];
}
