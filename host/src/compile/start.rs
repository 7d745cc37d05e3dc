//! How long a guest takes to start, which no tick interrupts: estimated from what its modules
//! contain and how often each is instantiated.
//!
//! The prices are those of the slowest way that was measured, so that what is estimated is not
//! exceeded by much anywhere.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, Data, DataKind, Element,
    ElementItems, ElementKind, Encoding, Imports, Instance, Operator, Payload, SectionLimited, TypeRef,
};

use super::check::Stop;
use super::limits::START_US_MAX;
use super::reject::rejection;

/// A byte of data that is written when the guest starts, its page touched for the first time.
const BYTE_NS: f64 = 2.5;
/// An element of a table that is made when the guest starts.
const ELEMENT_NS: f64 = 300.0;
/// A global of a module.
const GLOBAL_NS: f64 = 100.0;
/// An import of a module.
const IMPORT_NS: f64 = 20.0;

/// Memories whose data span no more than this are mapped with their data in them, and so are those
/// with data in at least half of the span.
const DENSE_BYTES: u64 = 16 * 1024 * 1024;

/// Adds up while an upload is read.
#[derive(Default)]
pub(super) struct Starts {
    /// The open modules and components, the outermost first.
    open: Vec<Open>,
    /// The most that a module takes, or a component, of those that were read: for one that comes
    /// from elsewhere.
    most: Took,
}

/// Nanoseconds that modules and components take.
#[derive(Default, Clone, Copy)]
struct Took {
    module_ns: f64,
    component_ns: f64,
}

/// A module or component whose end has not been read.
enum Open {
    Module(Module),
    Component(Component),
}

#[derive(Default)]
struct Module {
    ns: f64,
    /// Memories that are imported, which come first.
    memories_imported: u32,
    data: DataOf,
}

/// The facts about the active data of a module.
#[derive(Default)]
struct DataOf {
    bytes: u64,
    /// Where the last byte of any memory is.
    end: u64,
    start: Option<u64>,
    /// Some place is no constant, or is in a memory of another module's.
    is_written: bool,
}

#[derive(Default)]
struct Component {
    ns: f64,
    /// The cost of each, by its index.
    modules: Vec<f64>,
    components: Vec<f64>,
}

impl Starts {
    /// Adds one piece of the upload.
    pub(super) fn add(&mut self, payload: &Payload<'_>) -> Result<(), Stop> {
        if let Payload::Version { encoding, .. } = payload {
            self.open.push(match encoding {
                Encoding::Module => Open::Module(Module::default()),
                Encoding::Component => Open::Component(Component::default()),
            });
            return Ok(());
        }
        match self.open.last_mut() {
            Some(Open::Module(module)) => module.add(payload),
            Some(Open::Component(_)) => self.add_to_component(payload),
            None => Ok(()),
        }
    }

    /// A module or component has ended; the outermost is judged.
    pub(super) fn leave(&mut self) -> Result<(), Stop> {
        let took_ns = match self.open.pop() {
            Some(Open::Module(module)) => {
                let ns = module.ns + module.data.ns();
                self.most.module_ns = self.most.module_ns.max(ns);
                if let Some(Open::Component(parent)) = self.open.last_mut() {
                    parent.modules.push(ns);
                }
                ns
            }
            Some(Open::Component(component)) => {
                self.most.component_ns = self.most.component_ns.max(component.ns);
                if let Some(Open::Component(parent)) = self.open.last_mut() {
                    parent.components.push(component.ns);
                }
                component.ns
            }
            None => return Ok(()),
        };
        let took_us = took_ns / 1000.0;
        if self.open.is_empty() && took_us > START_US_MAX as f64 {
            return Err(Stop::Refused(rejection(format!(
                "the module would take about {} ms to start, over the limit of {} ms: its data at places that are no constants or far apart, its table \
                 elements in passive segments or at such places, its globals and its imports are made again for every instance",
                (took_us / 1000.0).round(),
                START_US_MAX / 1000
            ))));
        }
        Ok(())
    }

    fn add_to_component(&mut self, payload: &Payload<'_>) -> Result<(), Stop> {
        match payload {
            Payload::InstanceSection(instances) => {
                for instance in instances.clone() {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        let ns = self.module(0, module_index);
                        self.spend(ns);
                    }
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances.clone() {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        let ns = self.component(0, component_index);
                        self.spend(ns);
                    }
                }
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports.clone() {
                    self.name(import?.ty.kind(), self.most);
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports.clone() {
                    let export = export?;
                    let (module_ns, component_ns) = (self.module(0, export.index), self.component(0, export.index));
                    self.name(export.kind, Took { module_ns, component_ns });
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases.clone() {
                    self.alias(&alias?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match *alias {
            ComponentAlias::InstanceExport { kind, .. } => self.name(kind, self.most),
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
                let module_ns = self.module(count, index);
                self.name(ComponentExternalKind::Module, Took { module_ns, ..self.most });
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                let component_ns = self.component(count, index);
                self.name(ComponentExternalKind::Component, Took { component_ns, ..self.most });
            }
            ComponentAlias::Outer { .. } | ComponentAlias::CoreInstanceExport { .. } => {}
        }
    }

    /// The cost of a module, by its index in the component that is so far out.
    fn module(&self, outward: u32, index: u32) -> f64 {
        self.outer(outward)
            .and_then(|component| component.modules.get(index as usize))
            .copied()
            .unwrap_or(self.most.module_ns)
    }

    fn component(&self, outward: u32, index: u32) -> f64 {
        self.outer(outward)
            .and_then(|component| component.components.get(index as usize))
            .copied()
            .unwrap_or(self.most.component_ns)
    }

    fn outer(&self, outward: u32) -> Option<&Component> {
        match self.open.iter().rev().nth(outward as usize)? {
            Open::Component(component) => Some(component),
            Open::Module(_) => None,
        }
    }

    /// Gives what has been read another index in the innermost component.
    fn name(&mut self, kind: ComponentExternalKind, took: Took) {
        if let Some(Open::Component(component)) = self.open.last_mut() {
            match kind {
                ComponentExternalKind::Module => component.modules.push(took.module_ns),
                ComponentExternalKind::Component => component.components.push(took.component_ns),
                _ => {}
            }
        }
    }

    fn spend(&mut self, ns: f64) {
        if let Some(Open::Component(component)) = self.open.last_mut() {
            component.ns += ns;
        }
    }
}

impl Module {
    fn add(&mut self, payload: &Payload<'_>) -> Result<(), Stop> {
        match payload {
            Payload::ImportSection(imports) => self.imports(imports)?,
            Payload::GlobalSection(globals) => self.ns += f64::from(globals.count()) * GLOBAL_NS,
            Payload::ElementSection(elements) => {
                for segment in elements.clone() {
                    let segment = segment?;
                    if is_made_at_start(&segment)? {
                        let entries = match &segment.items {
                            ElementItems::Functions(items) => items.count(),
                            ElementItems::Expressions(_, items) => items.count(),
                        };
                        self.ns += f64::from(entries) * ELEMENT_NS;
                    }
                }
            }
            Payload::DataSection(data) => {
                for segment in data.clone() {
                    self.data.add(&segment?, self.memories_imported)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn imports(&mut self, imports: &SectionLimited<'_, Imports<'_>>) -> Result<(), Stop> {
        for import in imports.clone().into_imports() {
            self.ns += IMPORT_NS;
            if let TypeRef::Memory(_) = import?.ty {
                self.memories_imported += 1;
            }
        }
        Ok(())
    }
}

impl DataOf {
    fn add(&mut self, segment: &Data<'_>, memories_imported: u32) -> Result<(), Stop> {
        let DataKind::Active { memory_index, offset_expr } = &segment.kind else { return Ok(()) };
        let bytes = segment.data.len() as u64;
        self.bytes += bytes;
        let mut place = offset_expr.get_operators_reader();
        match place.read()? {
            Operator::I32Const { value } if place.is_end_then_eof() && *memory_index >= memories_imported => {
                let start = u64::from(value.cast_unsigned());
                self.start = Some(self.start.map_or(start, |before| before.min(start)));
                self.end = self.end.max(start + bytes);
            }
            _ => self.is_written = true,
        }
        Ok(())
    }

    fn ns(&self) -> f64 {
        let span = self.end - self.start.unwrap_or(self.end);
        let is_dense = span <= DENSE_BYTES || span <= 2 * self.bytes;
        if is_dense && !self.is_written { 0.0 } else { self.bytes as f64 * BYTE_NS }
    }
}

/// Whether the elements of a segment are made one by one whenever a guest starts. Functions with a
/// constant place are made when they are first used, and declarations never.
fn is_made_at_start(segment: &Element<'_>) -> Result<bool, Stop> {
    Ok(match (&segment.kind, &segment.items) {
        (ElementKind::Declared, _) => false,
        (ElementKind::Active { offset_expr, .. }, ElementItems::Functions(_)) => {
            let mut place = offset_expr.get_operators_reader();
            let is_constant = matches!(place.read()?, Operator::I32Const { .. }) && place.is_end_then_eof();
            !is_constant
        }
        _ => true,
    })
}
