//! `fifo`: strict priority, and within a priority who came first, whoever it is.

use wasmill_protocol::Timestamp;

use super::{Key, Policy, PolicyFault, ShapeView};

/// Serves the shape whose oldest task waits longest. A tenant that floods the queue delays all others.
#[derive(Debug, Clone, Copy)]
pub struct Fifo;

impl Policy for Fifo {
    fn name(&self) -> &str {
        "fifo"
    }

    fn order(&mut self, shapes: &[ShapeView], _now: Timestamp) -> Result<Vec<Key>, PolicyFault> {
        Ok(shapes.iter().map(|shape| Key { class: -i64::from(shape.priority), rank: shape.oldest.0 }).collect())
    }
}
