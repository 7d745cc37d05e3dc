//! Counting what an upload contains, as it is read, against the bounds of [`super::limits`].

use wasmill_protocol::module::ModuleRejection;
use wasmparser::{
    ComponentExport, ComponentImport, Element, ElementItems, FuncToValidate, FunctionBody, Imports, Operator, Payload,
    SectionLimited, ValidatorResources, WasmModuleResources,
};

use super::check::{ModuleCaps, Stop};
use super::limits::{self, Bound};
use super::reject::rejection;
use crate::engine::TABLE_ELEMENTS_MAX;

const PAGE_BYTES: u64 = 64 * 1024;

/// How many of everything were seen so far, over all nested modules and components.
pub(super) struct Counts {
    caps: ModuleCaps,
    seen: Vec<(&'static str, u64)>,
    /// How many modules and components are open; names are only taken from the outermost.
    depth: u64,
    /// Bytes that the memories of the module being read ask for before it starts.
    memory_bytes: u64,
    pub(super) names: Names,
}

/// The imports and exports of the outermost module or component, in its order.
#[derive(Default)]
pub(super) struct Names {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
}

impl Counts {
    pub(super) fn new(caps: &ModuleCaps) -> Self {
        Self { caps: *caps, seen: Vec::new(), depth: 0, memory_bytes: 0, names: Names::default() }
    }

    /// Counts one piece of the module; called before it is validated, so before anything is
    /// allocated for it.
    pub(super) fn add(&mut self, payload: &Payload<'_>) -> Result<(), Stop> {
        match payload {
            Payload::Version { .. } => self.enter()?,
            Payload::TypeSection(types) => self.count(limits::TYPES, types.count())?,
            Payload::ImportSection(imports) => self.imports(imports)?,
            Payload::FunctionSection(functions) => self.count(limits::FUNCTIONS, functions.count())?,
            Payload::TableSection(tables) => self.tables(tables)?,
            Payload::MemorySection(memories) => self.memories(memories)?,
            Payload::GlobalSection(globals) => self.count(limits::GLOBALS, globals.count())?,
            Payload::ExportSection(exports) => self.exports(exports)?,
            Payload::ElementSection(elements) => self.elements(elements)?,
            Payload::DataCountSection { count, .. } => check(limits::DATA_SEGMENTS, u64::from(*count))?,
            Payload::DataSection(data) => self.count(limits::DATA_SEGMENTS, data.count())?,
            Payload::CodeSectionStart { count, .. } => check(limits::FUNCTIONS, u64::from(*count))?,
            Payload::CustomSection(_) => self.count(limits::CUSTOM_SECTIONS, 1)?,
            Payload::ModuleSection { .. } => self.count(limits::CORE_MODULES, 1)?,
            Payload::ComponentSection { .. } => self.count(limits::COMPONENTS, 1)?,
            Payload::InstanceSection(instances) => self.count(limits::CORE_INSTANCES, instances.count())?,
            Payload::ComponentInstanceSection(instances) => {
                self.count(limits::COMPONENT_INSTANCES, instances.count())?
            }
            Payload::CoreTypeSection(types) => self.count(limits::COMPONENT_TYPES, types.count())?,
            Payload::ComponentTypeSection(types) => self.count(limits::COMPONENT_TYPES, types.count())?,
            Payload::ComponentAliasSection(aliases) => self.count(limits::COMPONENT_ITEMS, aliases.count())?,
            Payload::ComponentCanonicalSection(items) => self.count(limits::COMPONENT_ITEMS, items.count())?,
            Payload::ComponentImportSection(imports) => self.component_imports(imports)?,
            Payload::ComponentExportSection(exports) => self.component_exports(exports)?,
            _ => {}
        }
        Ok(())
    }

    /// A module or component has ended.
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    fn enter(&mut self) -> Result<(), ModuleRejection> {
        self.depth += 1;
        self.memory_bytes = 0;
        check(Bound { what: "levels of nested components", max: limits::NESTING_MAX }, self.depth)
    }

    fn count(&mut self, bound: Bound, more: u32) -> Result<(), ModuleRejection> {
        let at = match self.seen.iter().position(|(what, _)| *what == bound.what) {
            Some(at) => at,
            None => {
                self.seen.push((bound.what, 0));
                self.seen.len() - 1
            }
        };
        self.seen[at].1 += u64::from(more);
        check(bound, self.seen[at].1)
    }

    fn imports(&mut self, section: &SectionLimited<'_, Imports<'_>>) -> Result<(), Stop> {
        self.count(limits::IMPORTS, section.count())?;
        if self.depth == 1 {
            for import in section.clone().into_imports() {
                let import = import?;
                self.names.imports.push(format!("{}.{}", import.module, import.name));
            }
        }
        Ok(())
    }

    fn exports(&mut self, section: &SectionLimited<'_, wasmparser::Export<'_>>) -> Result<(), Stop> {
        self.count(limits::EXPORTS, section.count())?;
        if self.depth == 1 {
            for export in section.clone() {
                self.names.exports.push(export?.name.to_owned());
            }
        }
        Ok(())
    }

    fn component_imports(&mut self, section: &SectionLimited<'_, ComponentImport<'_>>) -> Result<(), Stop> {
        self.count(limits::COMPONENT_ITEMS, section.count())?;
        if self.depth == 1 {
            for import in section.clone() {
                self.names.imports.push(import?.name.name.to_owned());
            }
        }
        Ok(())
    }

    fn component_exports(&mut self, section: &SectionLimited<'_, ComponentExport<'_>>) -> Result<(), Stop> {
        self.count(limits::COMPONENT_ITEMS, section.count())?;
        if self.depth == 1 {
            for export in section.clone() {
                self.names.exports.push(export?.name.name.to_owned());
            }
        }
        Ok(())
    }

    fn tables(&mut self, section: &SectionLimited<'_, wasmparser::Table<'_>>) -> Result<(), Stop> {
        self.count(limits::TABLES, section.count())?;
        for table in section.clone() {
            let elements = table?.ty.initial;
            if elements > TABLE_ELEMENTS_MAX as u64 {
                return Err(Stop::Refused(rejection(format!(
                    "the module has a table of at least {elements} elements, over the limit of {TABLE_ELEMENTS_MAX}"
                ))));
            }
        }
        Ok(())
    }

    fn memories(&mut self, section: &SectionLimited<'_, wasmparser::MemoryType>) -> Result<(), Stop> {
        self.count(limits::MEMORIES, section.count())?;
        for memory in section.clone() {
            self.memory_bytes = self.memory_bytes.saturating_add(memory?.initial.saturating_mul(PAGE_BYTES));
        }
        let (max, whose) = if self.caps.memory_bytes < limits::MEMORY_BYTES_MIN_MAX {
            (self.caps.memory_bytes, "the cap `memory_bytes`")
        } else {
            (limits::MEMORY_BYTES_MIN_MAX, "the limit")
        };
        if self.memory_bytes > max {
            return Err(Stop::Refused(rejection(format!(
                "the module needs {} MiB of memory before it starts, over {whose} of {} MiB",
                self.memory_bytes >> 20,
                max >> 20
            ))));
        }
        Ok(())
    }

    fn elements(&mut self, section: &SectionLimited<'_, Element<'_>>) -> Result<(), Stop> {
        self.count(limits::ELEMENT_SEGMENTS, section.count())?;
        for segment in section.clone() {
            let entries = match segment?.items {
                ElementItems::Functions(items) => items.count(),
                ElementItems::Expressions(_, items) => items.count(),
            };
            self.count(limits::ELEMENTS, entries)?;
        }
        Ok(())
    }
}

/// Checks one function: its size, its locals and parameters, and the tables of its branches.
pub(super) fn check_function(
    function: &FuncToValidate<ValidatorResources>,
    body: &FunctionBody<'_>,
) -> Result<(), Stop> {
    let of = |what, max, found| check_of(function.index, what, max, found);
    let bytes = body.range().len() as u64;
    of("bytes", limits::FUNCTION_BYTES_MAX, bytes)?;
    let mut locals = 0;
    if let Some(ty) = function.resources.sub_type_at(function.ty) {
        let ty = ty.unwrap_func();
        of("parameters", limits::PARAMS_MAX, ty.params().len() as u64)?;
        of("results", limits::PARAMS_MAX, ty.results().len() as u64)?;
        locals = ty.params().len() as u64;
    }
    for run in body.get_locals_reader()? {
        locals += u64::from(run?.0);
    }
    of("locals", limits::LOCALS_MAX, locals)?;
    // A target takes a byte at least, so small functions need no look at their instructions.
    if bytes > limits::BRANCH_TARGETS_MAX {
        for operator in body.get_operators_reader()? {
            if let Operator::BrTable { targets } = operator? {
                of("targets of one `br_table`", limits::BRANCH_TARGETS_MAX, u64::from(targets.len()))?;
            }
        }
    }
    Ok(())
}

fn check_of(function: u32, what: &str, max: u64, found: u64) -> Result<(), ModuleRejection> {
    if found <= max {
        return Ok(());
    }
    Err(rejection(format!("function {function} of the module has {found} {what}, over the limit of {max}")))
}

fn check(bound: Bound, found: u64) -> Result<(), ModuleRejection> {
    if found <= bound.max {
        return Ok(());
    }
    Err(rejection(format!("the module has {found} {}, over the limit of {}", bound.what, bound.max)))
}
