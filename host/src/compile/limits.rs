//! How much of everything an upload may contain, decided before any code is generated for it.
//!
//! Every count is far above what the largest guests that we know of have (Python, Ruby and Go
//! programs, JavaScript engines), and low enough that validating a module at all its limits takes
//! seconds at most, and memory in proportion. The compiling child's limits bound what is left.

/// Grows with every change of what is refused, so that refusals by older rules are forgotten.
pub(crate) const RULES_VERSION: u32 = 3;

/// One kind of thing that a module contains: counted over the whole upload, nested modules
/// included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The counted things, in the plural, as a message names them.
    pub(crate) what: &'static str,
    /// How many there may be.
    pub(crate) max: u64,
}

/// Types of core modules. A large Go or Python program has some hundreds.
pub(crate) const TYPES: Bound = Bound { what: "types", max: 50_000 };
/// Imports of core modules. Python components link dozens of libraries with thousands of symbols
/// between them.
pub(crate) const IMPORTS: Bound = Bound { what: "imports", max: 100_000 };
/// Functions with a body. The largest guests known have about 60,000. An empty one takes the
/// compiler some 5.4 KB of memory, so that as many as this are within the memory that one
/// compilation gets; code comes on top.
pub(crate) const FUNCTIONS: Bound = Bound { what: "functions", max: 120_000 };
/// Globals. Position-independent libraries have one for each address that they exchange.
pub(crate) const GLOBALS: Bound = Bound { what: "globals", max: 100_000 };
/// Exports of core modules: every symbol of every linked library.
pub(crate) const EXPORTS: Bound = Bound { what: "exports", max: 200_000 };
/// Memories that are defined, not imported. The engine limits what one upload uses together at run
/// time.
pub(crate) const MEMORIES: Bound = Bound { what: "memories", max: crate::engine::MEMORIES_MAX as u64 };
/// Tables that are defined, not imported.
pub(crate) const TABLES: Bound = Bound { what: "tables", max: crate::engine::TABLES_MAX as u64 };
/// Element segments.
pub(crate) const ELEMENT_SEGMENTS: Bound = Bound { what: "element segments", max: 20_000 };
/// Entries of element segments: a table at its limit can be filled some times over.
pub(crate) const ELEMENTS: Bound = Bound { what: "table elements", max: 1_000_000 };
/// Data segments. Go's linker leaves out runs of zeros and so makes thousands.
pub(crate) const DATA_SEGMENTS: Bound = Bound { what: "data segments", max: 100_000 };
/// Custom sections: names, producers, and a type description for each library.
pub(crate) const CUSTOM_SECTIONS: Bound = Bound { what: "custom sections", max: 20_000 };
/// Core modules inside a component: a Python component has one for every native library, about 30.
pub(crate) const CORE_MODULES: Bound = Bound { what: "core modules", max: 256 };
/// Components inside a component: composed ones have a handful.
pub(crate) const COMPONENTS: Bound = Bound { what: "nested components", max: 256 };
/// Core instances as they are written down, the synthetic ones that only rename exports included.
pub(crate) const CORE_INSTANCES: Bound = Bound { what: "core instances", max: 1_000 };
/// Component instances as they are written down.
pub(crate) const COMPONENT_INSTANCES: Bound = Bound { what: "component instances", max: 1_000 };
/// Types of components.
pub(crate) const COMPONENT_TYPES: Bound = Bound { what: "component types", max: 50_000 };
/// Imports and exports of components, aliases, and conversions between core and component
/// functions.
pub(crate) const COMPONENT_ITEMS: Bound = Bound { what: "component items", max: 200_000 };

/// Microseconds that a guest may take to start, by our estimate: no tick interrupts it. 64 MiB of
/// data that have to be written take 0.17 s.
pub(crate) const START_US_MAX: u64 = 200_000;
/// How deep modules and components are nested; the outermost is 1. Composing tools nest 3 or 4
/// deep.
pub(crate) const NESTING_MAX: u64 = 10;
/// Bytes of one function body. The interpreter loops of Python and SQLite have some hundred KiB;
/// the compiler's time and memory grow faster than the size.
pub(crate) const FUNCTION_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Locals of one function, parameters included. Unoptimised code has one for each value: thousands.
pub(crate) const LOCALS_MAX: u64 = 20_000;
/// Parameters of one function, and its results. The output of compilers stays under 100.
pub(crate) const PARAMS_MAX: u64 = 256;
/// Targets of one `br_table`. State machines made by generators have some thousand.
pub(crate) const BRANCH_TARGETS_MAX: u64 = 65_536;
/// Bytes that the memories of one core module may ask for before it starts, whatever the
/// installation's caps are.
pub(crate) const MEMORY_BYTES_MIN_MAX: u64 = 1024 * 1024 * 1024;

/// Names of imports or exports that are listed for people; what is more is left out.
pub(crate) const NAMES_LISTED_MAX: usize = 1_000;
/// Bytes of one listed name; longer ones are cut.
pub(crate) const NAME_LISTED_BYTES_MAX: usize = 200;
/// Names that a message lists.
pub(crate) const NAMES_IN_MESSAGE_MAX: usize = 20;
/// Bytes of the message that refuses an upload.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024;
