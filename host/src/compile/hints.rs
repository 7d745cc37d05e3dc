//! Warnings for the owner of a module: said at its upload, which succeeds all the same.

use wasmparser::{ExternalKind, FunctionBody, Operator, Parser, Payload};

use super::reject::listed;

/// The function that a command begins with.
const START: &str = "_start";
/// Exports that toolchains add beside what a program is about.
const OF_TOOLCHAINS: [&str; 10] = [
    "memory",
    START,
    "_initialize",
    "malloc",
    "free",
    "calloc",
    "realloc",
    "__indirect_function_table",
    "__original_main",
    "main",
];

/// The facts about the code of a core module that matter here.
#[derive(Default)]
struct Code<'a> {
    functions_imported: u32,
    bodies: Vec<FunctionBody<'a>>,
    start: Option<u32>,
    /// Other functions that are exported.
    exported: Vec<String>,
}

/// Hints on a valid core module that is a command.
///
/// A walk over the sections, and over the code that `_start` reaches: linear in the module's size.
pub(super) fn of_command(bytes: &[u8]) -> Vec<String> {
    let Ok(code) = read(bytes) else { return Vec::new() };
    let silent = code.start.is_some_and(|start| !code.exported.is_empty() && !code.reaches_outside(start));
    let hint = || {
        format!(
            "`{START}` calls nothing that could read or write, so that every run gives an empty result; what the module can do is in other \
             exports ({}), which nothing calls: give it a `main` that does",
            listed(&code.exported)
        )
    };
    silent.then(hint).into_iter().collect()
}

fn read(bytes: &[u8]) -> wasmparser::Result<Code<'_>> {
    let mut code = Code::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            // A component: its parts are tied together in ways that say nothing of what is called.
            Payload::Version { encoding: wasmparser::Encoding::Component, .. } => return Ok(Code::default()),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let function =
                        matches!(import?.ty, wasmparser::TypeRef::Func(_) | wasmparser::TypeRef::FuncExact(_));
                    code.functions_imported += u32::from(function);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    if export.kind != ExternalKind::Func {
                        continue;
                    }
                    if export.name == START {
                        code.start = Some(export.index);
                    } else if !OF_TOOLCHAINS.contains(&export.name) && !export.name.starts_with("__") {
                        code.exported.push(export.name.to_owned());
                    }
                }
            }
            Payload::CodeSectionEntry(body) => code.bodies.push(body),
            _ => {}
        }
    }
    Ok(code)
}

impl Code<'_> {
    /// Whether a call of this function can come to one that is imported, or to one that cannot be
    /// told.
    fn reaches_outside(&self, function: u32) -> bool {
        let mut seen = vec![false; self.bodies.len()];
        let mut next = vec![function];
        while let Some(function) = next.pop() {
            let Some(index) = function.checked_sub(self.functions_imported) else { return true };
            let Some(seen) = seen.get_mut(index as usize) else { return true };
            if std::mem::replace(seen, true) {
                continue;
            }
            match calls(&self.bodies[index as usize]) {
                Some(called) => next.extend(called),
                None => return true,
            }
        }
        false
    }
}

/// The functions that a body calls; `None` when it also calls some that cannot be told.
fn calls(body: &FunctionBody<'_>) -> Option<Vec<u32>> {
    let mut called = Vec::new();
    for operator in body.get_operators_reader().ok()? {
        match operator.ok()? {
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => called.push(function_index),
            Operator::CallIndirect { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::ReturnCallRef { .. } => return None,
            _ => {}
        }
    }
    Some(called)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(wat: &str) -> Vec<String> {
        of_command(&wat::parse_str(wat).unwrap())
    }

    const WRITE: &str =
        r#"(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))"#;

    #[test]
    fn a_start_that_does_nothing_beside_other_exports_is_pointed_out() {
        let found = hints(&format!(
            r#"(module {WRITE} (func $ctors) (func (export "_start") (call $ctors)) (func (export "render")
                (drop (call $write (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
                (func (export "malloc")) (func (export "__wasm_call_ctors")))"#
        ));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`_start` calls nothing") && found[0].contains("(`render`)"), "{found:?}");
    }

    #[test]
    fn what_may_be_meant_is_left_alone() {
        for wat in [
            // It does something, itself or through another, or perhaps through a table.
            format!(r#"(module {WRITE} (func (export "_start") (drop (call $write (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 0)))) (func (export "render")))"#),
            format!(r#"(module {WRITE} (func $a (call $b)) (func $b (call $a)
                (drop (call $write (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
                (func (export "_start") (call $a)) (func (export "render")))"#),
            r#"(module (table 1 funcref) (func (export "_start") (call_indirect (i32.const 0))) (func (export "render")))"#.into(),
            // There is nothing else that could have been meant.
            r#"(module (func (export "_start")))"#.into(),
            r#"(module (func (export "_start")) (func (export "malloc")))"#.into(),
            // No command, no core module.
            r#"(module (func (export "render")))"#.into(),
            r#"(component)"#.into(),
        ] {
            assert_eq!(hints(&wat), [""; 0], "{wat}");
        }
    }
}
