//! The one answer to "can this run there".

use std::fmt;

use super::{HostRoom, HostStatus, ShapeView};

/// Why a shape cannot run on a host, the first reason that applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// It takes no new attempts.
    HostStatus(HostStatus),
    /// A required label is missing or has another value.
    Label(String, String),
    /// It has less memory than one task may use.
    Memory(u64),
    /// It has as many attempts of the tenant that wait for their module to be compiled as it keeps.
    Sated,
    /// It has as many attempts as it takes.
    Full,
}

/// Whether one more task of `shape` can be placed on `host`, in a place that is kept as well if it
/// may have that.
///
/// Memory is compared with all that the host has, and a host is full when it has promised all that
/// it may: how many guests fit at the same time is for the host to decide, which holds a few
/// attempts more than it runs.
///
/// # Errors
///
/// The first reason against it.
pub fn fits(shape: &ShapeView, host: &HostRoom, kept: bool) -> Result<(), Misfit> {
    if host.status != HostStatus::Ready {
        return Err(Misfit::HostStatus(host.status));
    }
    let missing = shape.require.iter().find(|(label, value)| host.labels.get(*label) != Some(*value));
    if let Some((label, value)) = missing {
        return Err(Misfit::Label(label.clone(), value.clone()));
    }
    if shape.memory_bytes > host.memory_bytes {
        return Err(Misfit::Memory(shape.memory_bytes));
    }
    if host.sated.contains(&shape.tenant) {
        return Err(Misfit::Sated);
    }
    if host.left(kept) == 0 {
        return Err(Misfit::Full);
    }
    Ok(())
}

/// The reason that users are shown when every host fails with this misfit.
impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostStatus(_) => f.write_str("no host is ready"),
            Self::Label(label, value) => write!(f, "no host has label {label}={value}"),
            Self::Memory(bytes) => write!(f, "no host has {} of memory", Bytes(*bytes)),
            Self::Sated => {
                f.write_str("every host has enough of the tenant's attempts that wait for their module to be compiled")
            }
            Self::Full => f.write_str("every host is full"),
        }
    }
}

/// Shows bytes in the largest unit that leaves no remainder.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(size, _)| self.0 > 0 && self.0.is_multiple_of(*size)) {
            Some((size, unit)) => write!(f, "{} {unit}", self.0 / size),
            None => write!(f, "{} bytes", self.0),
        }
    }
}
