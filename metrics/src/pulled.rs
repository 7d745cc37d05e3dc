//! Values that somebody else keeps, asked for at each scrape.

use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

use crate::registry::register;

/// See the module.
#[derive(Clone)]
struct Pulled {
    desc: Desc,
    kind: MetricType,
    value: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Collector for Pulled {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metric = Metric::default();
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value((self.value)());
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value((self.value)());
            metric.set_gauge(gauge);
        }
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(self.kind);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

/// A counter that `value` tells, which must only grow.
pub fn pulled_counter(registry: &Registry, name: &str, help: &str, value: impl Fn() -> f64 + Send + Sync + 'static) {
    pulled(registry, name, help, MetricType::COUNTER, Arc::new(value));
}

/// A gauge that `value` tells.
pub fn pulled_gauge(registry: &Registry, name: &str, help: &str, value: impl Fn() -> f64 + Send + Sync + 'static) {
    pulled(registry, name, help, MetricType::GAUGE, Arc::new(value));
}

fn pulled(registry: &Registry, name: &str, help: &str, kind: MetricType, value: Arc<dyn Fn() -> f64 + Send + Sync>) {
    let desc = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), Default::default());
    let desc = desc.expect("names of metrics are constants that are valid");
    register(registry, Box::new(Pulled { desc, kind, value }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_asked_for_at_each_scrape() {
        let registry = Registry::new();
        let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let told = Arc::clone(&count);
        let value = move || f64::from(told.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        pulled_counter(&registry, "wasmill_things_total", "Things.", value);
        for expected in 0..3 {
            let text = crate::Page::of(&registry).into_text();
            assert!(text.contains("# TYPE wasmill_things_total counter\n"), "{text}");
            assert!(text.contains(&format!("wasmill_things_total {expected}\n")), "{text}");
        }
    }
}
