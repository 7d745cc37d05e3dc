//! What the built-in policies answer.

use std::fmt::Write;
use std::sync::Arc;

use expect_test::{Expect, expect};
use wasmill_protocol::{Digest, TenantName, Timestamp};

use super::{HostRoom, ShapeView, Standing, Wanted, by_name, checked, first, fits};

fn shape(id: u32) -> ShapeView {
    ShapeView {
        id,
        tenant: TenantName::default(),
        weight: 1,
        class: 0,
        priority: 0,
        module: Digest::default(),
        memory_bytes: 100,
        require: Arc::default(),
        queued: 10,
        tenant_running: 0,
        tenant_time: 0,
        oldest: Timestamp(0),
    }
}

fn host(id: &str, free: u32, attempts: u32) -> HostRoom {
    HostRoom {
        id: id.into(),
        standing: Standing::Ready,
        free,
        kept: 0,
        attempts,
        slots: 4,
        memory_bytes: 1_000,
        sated: Arc::default(),
        labels: Arc::new([("zone".to_owned(), id.to_owned())].into()),
        load_millicores: 0,
    }
}

fn check_order(name: &str, shapes: &[ShapeView], expected: Expect) {
    let (mut shapes, mut order) = (shapes.to_vec(), Vec::new());
    while !shapes.is_empty() {
        let keys = by_name(name).unwrap().order(&shapes, Timestamp(0)).unwrap();
        order.push(shapes.remove(first(&keys, &shapes)).id.to_string());
    }
    expected.assert_eq(&order.join(" "));
}

fn check_place(name: &str, wanted: &[(ShapeView, u32)], hosts: &[HostRoom], expected: Expect) {
    let wanted: Vec<_> = wanted.iter().map(|(shape, count)| Wanted { shape, count: *count }).collect();
    let choices = by_name(name).unwrap().place(&wanted, hosts).unwrap();
    let (right, wrong) = checked(choices.clone(), &wanted, hosts);
    assert_eq!((&right, wrong), (&choices, 0), "a built-in policy is never wrong");
    let mut shown = String::new();
    for choice in right {
        let (shape, host) = (wanted[choice.wanted].shape.id, &hosts[choice.host].id);
        write!(shown, "{}x{shape} on {host}; ", choice.count).unwrap();
    }
    expected.assert_eq(shown.trim_end_matches("; "));
}

#[test]
fn orders() {
    let of = |tenant: &str, tenant_time, id, oldest| ShapeView {
        tenant: tenant.parse().unwrap(),
        tenant_time,
        oldest: Timestamp(oldest),
        ..shape(id)
    };
    let shapes = [
        of("a", 50, 1, 1),
        of("b", 20, 2, 9),
        of("c", 20, 3, 5),
        // The priorities of a tenant move nobody else.
        ShapeView { priority: 100, ..of("a", 50, 4, 8) },
        ShapeView { priority: -1, ..of("b", 20, 5, 0) },
        ShapeView { class: 1, ..of("d", 99, 6, 10) },
        ShapeView { class: -1, priority: 100, ..of("e", 0, 7, 0) },
    ];
    check_order("fair", &shapes, expect!["6 2 5 3 4 1 7"]);
    check_order("fifo", &shapes, expect!["6 3 4 1 2 5 7"]);
}

#[test]
fn least_loaded_spreads() {
    let hosts = [host("a", 4, 0), host("b", 4, 2), HostRoom { slots: 16, ..host("c", 4, 4) }];
    check_place("least_loaded", &[(shape(1), 6)], &hosts, expect!["2x1 on a; 4x1 on c"]);
    check_place("least_loaded", &[(shape(1), 99)], &hosts, expect!["4x1 on a; 4x1 on b; 4x1 on c"]);
    check_place("least_loaded", &[(shape(1), 2), (shape(2), 2)], &hosts, expect!["2x1 on a; 2x2 on c"]);
    let zone = |zone: &str| Arc::new([("zone".to_owned(), zone.to_owned())].into());
    check_place("least_loaded", &[(ShapeView { require: zone("b"), ..shape(1) }, 9)], &hosts, expect!["4x1 on b"]);
}

#[test]
fn pack_fills_the_fullest() {
    let hosts = [host("a", 4, 0), host("b", 2, 2), host("c", 0, 4)];
    check_place("pack", &[(shape(1), 1)], &hosts, expect!["1x1 on b"]);
    check_place("pack", &[(shape(1), 3), (shape(2), 2)], &hosts, expect!["2x1 on b; 1x1 on a; 2x2 on a"]);
}

#[test]
fn what_does_not_fit_says_why() {
    let gpu = Arc::new([("gpu".to_owned(), "1".to_owned())].into());
    let cases = [
        (shape(1), host("a", 1, 0)),
        (ShapeView { memory_bytes: 1_000, ..shape(1) }, host("a", 1, 0)),
        (ShapeView { memory_bytes: 1_001, ..shape(1) }, host("a", 1, 0)),
        (ShapeView { memory_bytes: 3 << 29, ..shape(1) }, host("a", 1, 0)),
        (ShapeView { require: gpu, ..shape(1) }, host("a", 1, 0)),
        (shape(1), host("a", 0, 9)),
        (shape(1), HostRoom { sated: [TenantName::default()].into(), ..host("a", 1, 0) }),
        (shape(1), HostRoom { sated: ["other".parse().unwrap()].into(), ..host("a", 1, 0) }),
        (shape(1), HostRoom { standing: Standing::Draining, ..host("a", 1, 0) }),
    ];
    let said =
        cases.map(|(shape, host)| fits(&shape, &host).map_or_else(|misfit| misfit.to_string(), |()| "fits".into()));
    expect![[r#"
        fits
        fits
        no host has 1001 bytes of memory
        no host has 1536 MiB of memory
        no host has label gpu=1
        every host is full
        every host has enough of the tenant's attempts that wait for their module to be compiled
        fits
        no host is ready"#]]
    .assert_eq(&said.join("\n"));
}
