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
    /// A message for an earlier life of a host is taken by the current one.
    IncarnationIgnored,
    /// A look-up of an idempotency key claims to be newer than it was.
    KeyLookupOld,
    /// A client is told that its task is cancelled when it was only asked to stop.
    CancelAnsweredEarly,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ReplyBeforeDurable,
        Self::SendBeforeDurable,
        Self::AckBeforeDurable,
        Self::NonceIgnored,
        Self::ReplayStopsShort,
        Self::RetryUncounted,
        Self::FinalTwice,
        Self::ReportSwallowed,
        Self::HostForgetsRecent,
        Self::IncarnationIgnored,
        Self::KeyLookupOld,
        Self::CancelAnsweredEarly,
    ];
}
