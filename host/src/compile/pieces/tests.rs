//! The output of the rewriting, without running it.

use wasmparser::{Operator, Payload, Validator};

use super::*;
use crate::engine::FEATURES;

fn cut(text: &str, fuel: Fuel) -> (Vec<u8>, Vec<u8>) {
    let bytes = wat::parse_str(text).unwrap();
    let cut = cut_long_instructions(&bytes, Cutting::of(fuel)).unwrap().into_owned();
    Validator::new_with_features(FEATURES).validate_all(&cut).unwrap_or_else(|error| panic!("{text}: {error}"));
    (bytes, cut)
}

/// How often each function of all modules has one of the instructions that are cut.
fn long_counts(bytes: &[u8]) -> Vec<usize> {
    let mut counts = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        if let Payload::CodeSectionEntry(body) = payload.unwrap() {
            let is_long = |operator: &Operator<'_>| {
                matches!(
                    operator,
                    Operator::MemoryFill { .. }
                        | Operator::MemoryCopy { .. }
                        | Operator::MemoryInit { .. }
                        | Operator::TableCopy { .. }
                )
            };
            let operators = body.get_operators_reader().unwrap().into_iter();
            counts.push(operators.filter(|operator| is_long(operator.as_ref().unwrap())).count());
        }
    }
    counts
}

#[test]
fn what_has_nothing_to_cut_stays_as_it_is() {
    for text in [
        "(module)",
        "(component)",
        "(module (func (drop (i32.trunc_sat_f32_s (f32.const 0)))))",
        "(module (memory 1) (func (param i32) (memory.fill (local.get 0) (i32.const 0) (i32.const 0x100000))))",
        "(module (memory 1) (func (param i32) (memory.copy (local.get 0) (i32.const 0) (i32.const 0))))",
        "(module (memory 1 16) (func (param i32) (memory.fill (local.get 0) (i32.const 0) (local.get 0))))",
        "(module (memory 1 16) (memory 1) (func (param i32) (memory.copy 0 1 (local.get 0) (i32.const 0) (local.get 0))))",
        "(module (memory 1) (data $d \"x\") (func (param i32) (memory.init $d (local.get 0) (i32.const 0) (local.get 0)) (data.drop $d)))",
        "(module (table 1 2048 funcref) (table 1 funcref) (func (param i32) (table.copy 0 1 (local.get 0) (i32.const 0) (local.get 0))))",
        "(module (table 1 funcref) (func (param i32) (table.copy (local.get 0) (i32.const 0) (i32.const 2048))))",
        "(component (core module (memory 1 16) (func (param i32) (memory.fill (local.get 0) (i32.const 0) (local.get 0)))))",
    ] {
        let (bytes, cut) = cut(text, Fuel::Uncounted);
        assert_eq!(bytes, cut, "{text}");
    }
}

#[test]
fn what_can_be_long_is_cut_and_nothing_else() {
    let fill = "(memory.fill (local.get 0) (i32.const 0) (local.get 0))";
    let copy = "(memory.copy (local.get 0) (i32.const 0) (local.get 0))";
    for (text, expected) in [
        (format!("(module (memory 1) (func (param i32) {fill} {copy}) (func (param i32)))"), vec![5, 0]),
        (format!("(module (memory 1 17) (func (param i32) {fill}))"), vec![2]),
        ("(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0x100001))))".into(), vec![2]),
        ("(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const -1))))".into(), vec![2]),
        ("(module (memory 1) (memory 1) (func (param i32) (memory.copy 1 0 (local.get 0) (i32.const 0) (local.get 0))))".into(), vec![2]),
        (format!("(component (core module (memory 1) (func (param i32) {fill})) (component (core module $m (memory 1) (func (param i32) {copy}))))"), vec![2, 3]),
        ("(module (table 1 2049 funcref) (table 1 funcref) (func (param i32) (table.copy 0 0 (local.get 0) (i32.const 0) (local.get 0)) (table.copy 0 1 (local.get 0) (i32.const 0) (local.get 0))))".into(), vec![5]),
        ("(module (memory 1) (func unreachable memory.fill memory.copy))".into(), vec![5]),
    ] {
        for fuel in [Fuel::Uncounted, Fuel::Counted] {
            assert_eq!(long_counts(&cut(&text, fuel).1), expected, "{text}, {fuel:?}");
        }
    }
    let big = "x".repeat(PIECE_BYTES as usize + 1);
    let text = format!(
        "(module (memory 1) (global $own (mut i32) (i32.const 5)) (data $d \"{big}\") (data $active (i32.const 0) \"{big}\") (data $short \"x\")
            (func (memory.init $d (i32.const 0) (i32.const 0) (i32.const 0x100001)) (data.drop $d)
                (memory.init $active (i32.const 0) (i32.const 0) (i32.const 0x100001))
                (memory.init $short (i32.const 0) (i32.const 0) (i32.const 0x100001))))"
    );
    for fuel in [Fuel::Uncounted, Fuel::Counted] {
        assert_eq!(long_counts(&cut(&text, fuel).1), [4], "{fuel:?}");
    }
}

/// Sections that others refer to stay as they are, and so do the functions beside those that are
/// cut.
#[test]
fn indices_do_not_change() {
    let text = r#"(module $name
        (import "a" "f" (func $imported (param i32)))
        (import "a" "g" (global $imported-global i32))
        (type $unused (func (param i64 i64) (result i64)))
        (global $own (mut i64) (i64.const 7))
        (table 2 funcref) (elem (i32.const 0) $first $second)
        (memory (export "memory") 1)
        (func $first (export "first") (param i32) (local $kept f64) (local i32)
            (memory.fill (local.get 0) (i32.const 1) (local.get 0)))
        (func $second (export "second") (param i32) (call $imported (global.get $imported-global)))
        (start $third) (func $third (call $second (i32.const 0)))
        (data (i32.const 0) "x"))"#;
    for fuel in [Fuel::Uncounted, Fuel::Counted] {
        let (bytes, cut) = cut(text, fuel);
        let of = |bytes: &[u8]| {
            let sections = sections(bytes).unwrap_or_else(|_| panic!("no sections"));
            sections.into_iter().map(|section| (section.id, bytes[section.contents].to_vec())).collect::<Vec<_>>()
        };
        let (before, after) = (of(&bytes), of(&cut));
        let ids = |sections: &[(u8, Vec<u8>)]| sections.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(ids(&before), ids(&after));
        for ((id, before), (_, after)) in before.iter().zip(&after) {
            match id {
                10 => assert_ne!(before, after),
                6 if fuel == Fuel::Counted => assert_eq!(&before[1..], &after[1..before.len()]),
                _ => assert_eq!(before, after, "section {id}"),
            }
        }
    }
}

#[test]
fn globals_get_a_section_of_their_own_where_there_is_none() {
    for text in [
        "(module (memory 1) (func (param i32) (memory.fill (local.get 0) (i32.const 0) (local.get 0))))",
        r#"(module (import "a" "m" (memory 1)) (func $f (export "f") (param i32) (memory.fill (local.get 0) (i32.const 0) (local.get 0))) (table 1 funcref) (elem (i32.const 0) $f))"#,
        r#"(module (memory 1) (@custom "here" (after memory) "x") (func (param i32) (memory.fill (local.get 0) (i32.const 0) (local.get 0))))"#,
    ] {
        let (_, cut) = cut(text, Fuel::Counted);
        assert_eq!(sections(&cut).unwrap_or_else(|_| panic!()).iter().filter(|section| section.id == 6).count(), 1);
    }
}

#[test]
fn a_function_that_becomes_too_large_is_refused_with_a_reason() {
    let body = "(memory.fill (local.get 0) (i32.const 0) (local.get 0))".repeat(100_000);
    let bytes =
        wat::parse_str(format!("(module (import \"a\" \"b\" (func)) (memory 1) (func (param i32) {body}))")).unwrap();
    let refused = cut_long_instructions(&bytes, Cutting::of(Fuel::Uncounted)).unwrap_err();
    assert_eq!(refused.code, "module_invalid");
    assert!(refused.message.contains("function 1 of the module uses `memory.fill`"), "{}", refused.message);
}

#[test]
fn invalid_bytes_are_refused_and_no_panic() {
    let bytes = wat::parse_str(
        "(module (memory 1) (func (param i32) (memory.fill (local.get 0) (i32.const 0) (local.get 0))))",
    );
    let bytes = bytes.unwrap();
    for end in 0..bytes.len() {
        for fuel in [Fuel::Uncounted, Fuel::Counted] {
            let _ = cut_long_instructions(&bytes[..end], Cutting::of(fuel));
            let mut damaged = bytes.clone();
            damaged[end] ^= 0x55;
            let _ = cut_long_instructions(&damaged, Cutting::of(fuel));
        }
    }
}
