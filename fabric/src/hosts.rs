//! What changed among the hosts.

use std::collections::BTreeMap;

use wasmill_protocol::HostId;
use wasmill_protocol::message::HostInfo;

use crate::HostEvent;

/// From `known` to `living`: first who has left, then who has joined. A new life of a host is both.
pub(crate) fn differences(known: &BTreeMap<HostId, HostInfo>, living: &BTreeMap<HostId, HostInfo>) -> Vec<HostEvent> {
    let mut events = Vec::new();
    for (id, info) in known {
        if living.get(id).is_none_or(|now| now.incarnation != info.incarnation) {
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
