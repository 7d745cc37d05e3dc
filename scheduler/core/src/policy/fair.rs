//! `fair`: tenants of a higher class strictly first, and within a class each tenant gets slot time
//! in proportion to its weight.

use wasmill_protocol::Timestamp;

use super::{Key, Keys, Order, PolicyFault, ShapeView, Stride, TenantView};

/// Start-time fair queueing over tenants (Goyal, Vin and Cheng, 1996): the tenant with the least
/// virtual time is served first. The core keeps the virtual times, which are charged by slot time
/// and not by count, so that long tasks buy no advantage. Shapes of a tenant have the same key, so
/// that a priority moves nothing but the tenant's own tasks.
#[derive(Debug, Clone, Copy)]
pub struct Fair;

impl Order for Fair {
    fn name(&self) -> &str {
        "fair"
    }

    fn keys(&mut self, _: Timestamp, tenants: &[TenantView], shapes: &[ShapeView]) -> Result<Keys, PolicyFault> {
        let key = |tenant: &TenantView| Key {
            class: -i64::from(tenant.class),
            rank: tenant.time,
            stride: Stride::By(tenant.charge),
        };
        Ok(Keys { tenants: tenants.iter().map(key).collect(), shapes: vec![Key::default(); shapes.len()] })
    }
}
