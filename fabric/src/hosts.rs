//! The changes among the hosts.

use std::collections::BTreeMap;

use wasmill_protocol::HostId;
use wasmill_protocol::message::HostInfo;

use crate::HostEvent;

/// From `known` to `living`: first who has left, then who has joined. That a life is over whose
/// host has a later one is told by the later one alone: how it ended depends on whose the later one
/// is.
pub(crate) fn differences(known: &BTreeMap<HostId, HostInfo>, living: &BTreeMap<HostId, HostInfo>) -> Vec<HostEvent> {
    let mut events = Vec::new();
    for (id, info) in known {
        if living.get(id).is_none_or(|now| now.incarnation < info.incarnation) {
            events.push(HostEvent::Left(id.clone(), info.incarnation));
        }
    }
    for (id, info) in living {
        if known.get(id) != Some(info) {
            events.push(HostEvent::Joined(info.clone()));
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::Incarnation;

    use super::*;

    fn living(lives: &[(&str, u64)]) -> BTreeMap<HostId, HostInfo> {
        let infos = lives.iter().map(|(id, life)| HostInfo {
            id: HostId::from(*id),
            incarnation: Incarnation(*life),
            ..HostInfo::default()
        });
        infos.map(|info| (info.id.clone(), info)).collect()
    }

    #[test]
    fn a_later_life_alone_tells_that_the_one_before_is_over() {
        let known = living(&[("goes", 1), ("lives", 1), ("returns", 1), ("was restored", 7)]);
        let now = living(&[("comes", 1), ("lives", 1), ("returns", 2), ("was restored", 3)]);
        let left = |id: &str, life| HostEvent::Left(HostId::from(id), Incarnation(life));
        let joined = |id: &str| HostEvent::Joined(now[&HostId::from(id)].clone());
        assert_eq!(
            differences(&known, &now),
            [left("goes", 1), left("was restored", 7), joined("comes"), joined("returns"), joined("was restored")]
        );
    }
}
