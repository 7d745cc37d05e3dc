//! The answers of the built-in policies.

use std::fmt::Write;
use std::sync::Arc;

use expect_test::{Expect, expect};
use wasmill_protocol::{Digest, TenantName, Timestamp};

use super::{
    HostChange, HostRoom, HostStatus, Ref, ShapeView, Stride, TenantView, Wanted, fits, order_by_name, place_by_name,
};

fn shape(id: u32) -> ShapeView {
    ShapeView {
        id: Ref { slot: id, generation: 0 },
        tenant_id: 0,
        tenant: TenantName::default(),
        priority: 0,
        module: Digest::default(),
        memory_bytes: 100,
        require: Arc::default(),
        queued: 10,
        oldest: Timestamp(0),
    }
}

fn host(id: &str, free: u32, attempts: u32) -> HostRoom {
    HostRoom {
        id: id.into(),
        kind: 0,
        status: HostStatus::Ready,
        free,
        kept: 0,
        attempts,
        slots: 4,
        cores: 1,
        memory_bytes: 10_000,
        memory_promised: 0,
        memory_most: 10_000,
        sated: Arc::default(),
        labels: Arc::new([("zone".to_owned(), id.to_owned())].into()),
        load_millicores: 0,
        modules_cached: 0,
        modules_warm: Arc::default(),
        memory_held: 0,
    }
}

fn check_place(name: &str, wanted: &[(ShapeView, u32)], hosts: &[HostRoom], expected: Expect) {
    let mut policy = place_by_name(name).unwrap();
    let reference = |slot| Ref { slot, generation: 7 };
    let changes: Vec<_> =
        (0..).zip(hosts).map(|(slot, room)| HostChange { host: reference(slot), room: Some(room.clone()) }).collect();
    // To be told twice makes no difference, and what is gone is not used.
    policy.changed(&changes);
    let gone = HostChange { host: reference(99), room: Some(host("gone", 100, 0)) };
    policy.changed(&[changes[0].clone(), gone.clone()]);
    policy.changed(&[HostChange { room: None, ..gone }]);
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(shape, count)| Wanted { shape: shape.clone(), count: *count, kept: false, kinds: Arc::new([0]) })
        .collect();
    let mut shown = String::new();
    for choice in policy.place(Timestamp(0), &wanted).unwrap() {
        let (shape, host) = (&wanted[choice.wanted].shape, &hosts[choice.host.slot as usize]);
        assert_eq!((fits(shape, host, false), choice.host.generation), (Ok(()), 7), "a built-in policy is never wrong");
        write!(shown, "{}x{} on {}; ", choice.count, shape.id.slot, host.id).unwrap();
    }
    expected.assert_eq(shown.trim_end_matches("; "));
}

#[test]
fn tenants_are_ordered_by_class_and_then_by_time_or_age() {
    let of = |id, class, time, charge| TenantView {
        id,
        name: TenantName::default(),
        weight: 1,
        class,
        running: 0,
        time,
        charge,
    };
    let tenants = [of(1, 0, 50, 3), of(2, 0, 20, 4), of(3, 1, 99, 5), of(4, -1, 0, 6)];
    let keys = |name: &str| {
        let keys = order_by_name(name).unwrap().keys(Timestamp(0), &tenants, &[shape(1)]).unwrap();
        assert_eq!(keys.shapes, [Default::default()], "shapes of a tenant are alike");
        keys.tenants
    };
    let fair = keys("fair");
    let mut order: Vec<_> = fair.iter().zip(&tenants).map(|(key, tenant)| (*key, tenant.id)).collect();
    order.sort();
    assert_eq!(order.into_iter().map(|(_, id)| id).collect::<Vec<_>>(), [3, 2, 1, 4]);
    assert_eq!(fair[1].stride, Stride::By(4), "a start costs what it is charged");
    let fifo = keys("fifo");
    assert!(fifo.iter().all(|key| key.stride == Stride::Oldest));
    assert_eq!(fifo.iter().map(|key| key.class).collect::<Vec<_>>(), [0, 0, -1, 1]);
}

#[test]
fn least_loaded_spreads() {
    let hosts = [host("a", 4, 0), host("b", 4, 2), HostRoom { slots: 16, ..host("c", 4, 4) }];
    check_place("least_loaded", &[(shape(1), 6)], &hosts, expect!["2x1 on a; 4x1 on c"]);
    check_place("least_loaded", &[(shape(1), 99)], &hosts, expect!["4x1 on a; 4x1 on c; 4x1 on b"]);
    check_place("least_loaded", &[(shape(1), 2), (shape(2), 2)], &hosts, expect!["2x1 on a; 2x2 on c"]);
    let zone = |zone: &str| Arc::new([("zone".to_owned(), zone.to_owned())].into());
    check_place("least_loaded", &[(ShapeView { require: zone("b"), ..shape(1) }, 9)], &hosts, expect!["4x1 on b"]);
}

#[test]
fn least_loaded_counts_memory_that_was_promised() {
    let large = |count| [(ShapeView { memory_bytes: 512, ..shape(1) }, count)];
    let of =
        |id: &str, memory_bytes| HostRoom { slots: 32, memory_bytes, memory_most: memory_bytes * 2, ..host(id, 64, 0) };
    let hosts = [of("small", 1_024), of("large", 8_192)];
    check_place("least_loaded", &large(16), &hosts, expect!["2x1 on small; 14x1 on large"]);
    // Attempts wait there in proportion.
    check_place("least_loaded", &large(100), &hosts, expect!["4x1 on small; 32x1 on large"]);
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
    let full = HostRoom { memory_promised: 10_000, ..host("a", 1, 0) };
    let cases = [
        (shape(1), host("a", 1, 0)),
        (ShapeView { memory_bytes: 10_000, ..shape(1) }, host("a", 1, 0)),
        (ShapeView { memory_bytes: 10_001, ..shape(1) }, host("a", 1, 0)),
        (ShapeView { memory_bytes: 3 << 29, ..shape(1) }, host("a", 1, 0)),
        (ShapeView { require: gpu, ..shape(1) }, host("a", 1, 0)),
        (shape(1), host("a", 0, 9)),
        (shape(1), full),
        (shape(1), HostRoom { sated: [TenantName::default()].into(), ..host("a", 1, 0) }),
        (shape(1), HostRoom { sated: ["other".parse().unwrap()].into(), ..host("a", 1, 0) }),
        (shape(1), HostRoom { status: HostStatus::Draining, ..host("a", 1, 0) }),
    ];
    let said = cases
        .map(|(shape, host)| fits(&shape, &host, false).map_or_else(|misfit| misfit.to_string(), |()| "fits".into()));
    expect![[r#"
        fits
        fits
        no host has 10001 bytes of memory
        no host has 1536 MiB of memory
        no host has label gpu=1
        every host is full
        every host is full
        every host has enough of the tenant's attempts that wait for their module to be compiled
        fits
        no host is ready"#]]
    .assert_eq(&said.join("\n"));
}
