//! `fifo`: tenants of a higher class strictly first, and within a class who came first, whoever it is.

use std::collections::BTreeMap;

use wasmill_protocol::{TenantName, Timestamp};

use super::{Key, Policy, PolicyFault, ShapeView};

/// Serves the tenant whose next task waits longest: the oldest among those of its highest priority. A tenant that floods the queue delays
/// all others of its class.
#[derive(Debug, Clone, Copy)]
pub struct Fifo;

impl Policy for Fifo {
    fn name(&self) -> &str {
        "fifo"
    }

    fn order(&mut self, shapes: &[ShapeView], _now: Timestamp) -> Result<Vec<Key>, PolicyFault> {
        let mut next: BTreeMap<&TenantName, (i16, Timestamp)> = BTreeMap::new();
        for shape in shapes {
            let turn = (-i16::from(shape.priority), shape.oldest);
            next.entry(&shape.tenant).and_modify(|first| *first = turn.min(*first)).or_insert(turn);
        }
        let rank = |shape: &ShapeView| next.get(&shape.tenant).map_or(0, |(_, oldest)| oldest.0);
        Ok(shapes.iter().map(|shape| Key { class: -i64::from(shape.class), rank: rank(shape) }).collect())
    }
}
