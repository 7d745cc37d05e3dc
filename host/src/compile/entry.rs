//! How a module is run: found from what it exports, and whether all that it imports is there to be
//! had.

use wasmill_protocol::module::{ModuleKind, ModuleRejection};
use wasmparser::component_types::{
    ComponentAnyTypeId, ComponentDefinedType, ComponentEntityType, ComponentFuncType, ComponentInstanceType,
    ComponentValType,
};
use wasmparser::types::{EntityType, Types, TypesRef};
use wasmparser::{PrimitiveValType, ValType};

use super::count::Names;
use super::grants;
use super::reject::{listed, rejection};

/// The exports that a command or a task needs.
const NEEDED: &str = "needed is one of: a core module for WASI 0.1 that exports the function `_start`; a component that exports \
                      `wasi:cli/run@0.2`; a component of the `wasmill:task/task@0.1.0` world, which exports \
                      `run: func(input: list<u8>) -> result<list<u8>, failure>`";
const RUN_INTERFACE: &str = "wasi:cli/run@";

/// The surface of a module.
pub(super) struct Surface {
    /// Names, sorted.
    pub(super) imports: Vec<String>,
    /// Names, sorted.
    pub(super) exports: Vec<String>,
    /// Imports that the host does not offer.
    unknown: Vec<String>,
    /// Exports that look like entry points.
    entries: Vec<Entry>,
    /// A core module exports no memory, and calls functions of WASI that read and write one.
    memory_missing: bool,
}

enum Entry {
    /// One that can be called.
    Callable(ModuleKind, String),
    /// One with the right name; the text says what else is wrong.
    Unfit(String),
}

impl Surface {
    /// Reads the names and types of a valid module.
    pub(super) fn read(mut names: Names, types: &Types) -> Self {
        names.imports.sort_unstable();
        names.exports.sort_unstable();
        let types = types.as_ref();
        let mut surface = Self {
            imports: names.imports,
            exports: names.exports,
            unknown: Vec::new(),
            entries: Vec::new(),
            memory_missing: false,
        };
        match (types.core_imports(), types.core_exports()) {
            (Some(imports), Some(exports)) => surface.read_core(imports, exports, types),
            _ => surface.read_component(types),
        }
        surface
    }

    fn read_core<'a>(
        &mut self,
        imports: impl Iterator<Item = (&'a str, &'a str, EntityType)>,
        exports: impl Iterator<Item = (&'a str, EntityType)>,
        types: TypesRef<'a>,
    ) {
        let mut needs_memory = false;
        for (module, name, ty) in imports {
            needs_memory |= grants::needs_memory(name);
            if !matches!(ty, EntityType::Func(_)) || !grants::is_core_import(module, name) {
                self.unknown.push(format!("{module}.{name}"));
            }
        }
        let mut has_memory = false;
        for (name, ty) in exports {
            match (name, ty) {
                ("memory", EntityType::Memory(_)) => has_memory = true,
                ("_start", EntityType::Func(id)) => {
                    let ty = types[id].unwrap_func();
                    self.entries.push(if ty.params().is_empty() && ty.results().is_empty() {
                        Entry::Callable(ModuleKind::Command, "_start".to_owned())
                    } else {
                        let (params, results) = (value_types(ty.params()), value_types(ty.results()));
                        Entry::Unfit(format!(
                            "`_start` has the type ({params}) -> ({results}) and must have no parameters and no results"
                        ))
                    });
                }
                ("_start", _) => self.entries.push(Entry::Unfit("`_start` is no function".to_owned())),
                _ => {}
            }
        }
        self.memory_missing = needs_memory && !has_memory;
    }

    fn read_component(&mut self, types: TypesRef<'_>) {
        // Names that only give a type to something are no demands on the host, and no entry points.
        self.imports.retain(|name| match types.component_item_for_import(name).map(|item| item.ty) {
            Some(ComponentEntityType::Type { referenced: ComponentAnyTypeId::Defined(_), .. }) => false,
            Some(ComponentEntityType::Instance(id)) => {
                if !grants::is_interface(name) && demands_anything(&types[id]) {
                    self.unknown.push(name.clone());
                }
                true
            }
            _ => {
                self.unknown.push(name.clone());
                true
            }
        });
        for name in &self.exports {
            let Some(item) = types.component_item_for_export(name) else { continue };
            if name == "run" {
                self.entries.push(match item.ty {
                    ComponentEntityType::Func(id) if is_task(&types[id], types) => {
                        Entry::Callable(ModuleKind::Task, name.clone())
                    }
                    _ => Entry::Unfit(
                        "`run` does not have the type `func(input: list<u8>) -> result<list<u8>, failure>` with \
                         `variant failure { reject(string), retry(string) }`"
                            .to_owned(),
                    ),
                });
            } else if let Some(version) = name.strip_prefix(RUN_INTERFACE) {
                self.entries.push(match item.ty {
                    ComponentEntityType::Instance(id)
                        if grants::is_version(version) && is_command(&types[id], types) =>
                    {
                        Entry::Callable(ModuleKind::Command, name.clone())
                    }
                    _ if !grants::is_version(version) => {
                        Entry::Unfit(format!("`{name}` is of another version of WASI than 0.2"))
                    }
                    _ => Entry::Unfit(format!("`{name}` does not have the function `run: func() -> result`")),
                });
            }
        }
    }
}

/// Refuses imports that the host does not offer.
pub(super) fn check_imports(surface: &Surface) -> Result<(), ModuleRejection> {
    if surface.unknown.is_empty() {
        return Ok(());
    }
    Err(rejection(format!(
        "the module imports what Wasmill does not offer: {}{}; offered are {}",
        listed(&surface.unknown),
        grants::hint(&surface.unknown),
        grants::OFFERED
    )))
}

/// Finds the one entry point.
pub(super) fn find(surface: &Surface) -> Result<ModuleKind, ModuleRejection> {
    let found = || format!("found were the exports {}", listed(&surface.exports));
    let kind = match surface.entries.as_slice() {
        [Entry::Callable(kind, _)] => *kind,
        [Entry::Unfit(why)] => return Err(rejection(format!("the entry point cannot be called: {why}; {NEEDED}"))),
        [] => {
            let library = if surface.exports.iter().any(|name| name == "_initialize") {
                ", which is a library (reactor) and no command"
            } else {
                ""
            };
            return Err(rejection(format!("the module has no entry point: {}{library}; {NEEDED}", found())));
        }
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|entry| match entry {
                    Entry::Callable(_, name) => format!("`{name}`"),
                    Entry::Unfit(why) => why.clone(),
                })
                .collect();
            return Err(rejection(format!(
                "the module has {} entry points and must have one: {}; {NEEDED}",
                several.len(),
                names.join(" and ")
            )));
        }
    };
    if surface.memory_missing {
        return Err(rejection(format!(
            "the module imports functions of WASI but exports no memory named `memory`, which they need; {}",
            found()
        )));
    }
    Ok(kind)
}

fn value_types(types: &[ValType]) -> String {
    types.iter().take(10).map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Whether an imported instance has to come from somewhere: one with nothing but types only gives
/// them names.
fn demands_anything(instance: &ComponentInstanceType) -> bool {
    instance
        .exports
        .values()
        .any(|item| !matches!(item.ty, ComponentEntityType::Type { referenced: ComponentAnyTypeId::Defined(_), .. }))
}

/// `run: func() -> result`
fn is_command(instance: &ComponentInstanceType, types: TypesRef<'_>) -> bool {
    let Some(ComponentEntityType::Func(id)) = instance.exports.get("run").map(|item| item.ty) else { return false };
    let function = &types[id];
    function.params.is_empty()
        && !function.async_
        && matches!(defined(function.result, types), Some(ComponentDefinedType::Result { ok: None, err: None, .. }))
}

/// `run: func(input: list<u8>) -> result<list<u8>, failure>`
fn is_task(function: &ComponentFuncType, types: TypesRef<'_>) -> bool {
    let [(_, input)] = &*function.params else { return false };
    let Some(ComponentDefinedType::Result { ok, err, .. }) = defined(function.result, types) else { return false };
    let Some(ComponentDefinedType::Variant(failure)) = defined(*err, types) else { return false };
    let is_text = |name: &str| {
        let case = failure.cases.iter().find(|(case, _)| case.as_str() == name);
        case.is_some_and(|(_, case)| is_primitive(case.ty, PrimitiveValType::String, types))
    };
    let reject_first = failure.cases.keys().next().is_some_and(|name| name.as_str() == "reject");
    !function.async_
        && is_bytes(Some(*input), types)
        && is_bytes(*ok, types)
        && failure.cases.len() == 2
        && reject_first
        && is_text("reject")
        && is_text("retry")
}

fn is_bytes(ty: Option<ComponentValType>, types: TypesRef<'_>) -> bool {
    match defined(ty, types) {
        Some(ComponentDefinedType::List { element, .. }) => is_primitive(Some(*element), PrimitiveValType::U8, types),
        _ => false,
    }
}

fn is_primitive(ty: Option<ComponentValType>, wanted: PrimitiveValType, types: TypesRef<'_>) -> bool {
    match ty {
        Some(ComponentValType::Primitive(primitive)) => primitive == wanted,
        other => {
            matches!(defined(other, types), Some(ComponentDefinedType::Primitive(primitive)) if *primitive == wanted)
        }
    }
}

fn defined<'a>(ty: Option<ComponentValType>, types: TypesRef<'a>) -> Option<&'a ComponentDefinedType> {
    match ty {
        Some(ComponentValType::Type(id)) => types.get(id),
        _ => None,
    }
}
