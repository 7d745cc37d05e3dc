//! `fifo`: tenants of a higher class strictly first, and within a class who came first, whoever it
//! is.

use wasmill_protocol::Timestamp;

use super::{Key, Keys, Order, PolicyFault, ShapeView, Stride, TenantView};

/// Serves the tenant whose next task waits longest: the oldest among those of its highest priority.
/// A tenant that floods the queue delays all others of its class.
#[derive(Debug, Clone, Copy)]
pub struct Fifo;

impl Order for Fifo {
    fn name(&self) -> &str {
        "fifo"
    }

    fn keys(&mut self, _: Timestamp, tenants: &[TenantView], shapes: &[ShapeView]) -> Result<Keys, PolicyFault> {
        let key = |tenant: &TenantView| Key { class: -i64::from(tenant.class), rank: 0, stride: Stride::Oldest };
        Ok(Keys { tenants: tenants.iter().map(key).collect(), shapes: vec![Key::default(); shapes.len()] })
    }
}
