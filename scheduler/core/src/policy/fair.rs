//! `fair`: tenants of a higher class strictly first, and within a class each tenant gets slot time in proportion to its weight.

use wasmill_protocol::Timestamp;

use super::{Key, Policy, PolicyFault, ShapeView};

/// Start-time fair queueing over tenants (Goyal, Vin and Cheng, 1996): the tenant with the least virtual time is served first.
/// The core keeps the virtual times, which are charged by slot time and not by count, so that long tasks buy no advantage. All shapes
/// of a tenant have the same key, so that a priority moves nothing but the tenant's own tasks.
#[derive(Debug, Clone, Copy)]
pub struct Fair;

impl Policy for Fair {
    fn name(&self) -> &str {
        "fair"
    }

    fn order(&mut self, shapes: &[ShapeView], _now: Timestamp) -> Result<Vec<Key>, PolicyFault> {
        Ok(shapes.iter().map(|shape| Key { class: -i64::from(shape.class), rank: shape.tenant_time }).collect())
    }
}
