//! One core module: what its functions need to know of it, and its sections written again.

use wasm_encoder::{ConstExpr, Encode, GlobalType, ValType};
use wasmparser::{
    BinaryReader, CodeSectionReader, CompositeInnerType, DataKind, DataSectionReader, FunctionSectionReader,
    GlobalSectionReader, ImportSectionReader, MemorySectionReader, MemoryType, TableSectionReader, TableType, TypeRef,
    TypeSectionReader,
};

use super::function::Rewriter;
use super::site::{VARIABLES, constants};
use super::{Cut, CutError, Cutting, Fuel, Section, put_section, put_u32, sections};

const PAGE_BYTES: u64 = 64 * 1024;
/// All that a memory of 32 bits can have.
const MEMORY_BYTES_MAX: u64 = 1 << 32;

// Sections by their number.
const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const TABLES: u8 = 4;
const MEMORIES: u8 = 5;
const GLOBALS: u8 = 6;
const CODE: u8 = 10;
const DATA: u8 = 11;
/// Sections that come before the globals, besides custom ones.
const BEFORE_GLOBALS: [u8; 7] = [0, TYPES, IMPORTS, FUNCTIONS, TABLES, MEMORIES, 13];

/// Cuts the long instructions of a core module.
pub(super) fn cut(bytes: &[u8], cutting: Cutting) -> Cut {
    let sections = sections(bytes)?;
    let Some(code) = sections.iter().find(|section| section.id == CODE) else { return Ok(None) };
    let shape = Shape::read(bytes, &sections, cutting)?;
    let Some(code) = cut_code(&bytes[code.contents.clone()], &Rewriter { shape: &shape, cutting })? else {
        return Ok(None);
    };
    let globals = shape.globals_section(bytes, &sections)?;
    let mut globals = globals.as_deref();
    let mut out = bytes[..super::HEADER_BYTES].to_vec();
    for section in &sections {
        if let Some(globals) = globals.take_if(|_| !BEFORE_GLOBALS.contains(&section.id)) {
            put_section(&mut out, GLOBALS, globals);
            if section.id == GLOBALS {
                continue;
            }
        }
        match section.id {
            CODE => put_section(&mut out, CODE, &code),
            _ => out.extend_from_slice(&bytes[section.whole.clone()]),
        }
    }
    Ok(Some(out))
}

/// The contents of the code section; `None` when no function changes.
fn cut_code(contents: &[u8], rewriter: &Rewriter<'_>) -> Cut {
    let mut out = Vec::new();
    let mut kept_to = 0;
    let bodies = CodeSectionReader::new(BinaryReader::new(contents, 0))?;
    // Each body comes after its length, which begins where the body before ends.
    let mut length_start = bodies.original_position();
    for (index, body) in bodies.into_iter().enumerate() {
        let body = body?.range();
        if let Some(cut) = rewriter.cut(index as u32, &contents[body.clone()])? {
            out.extend_from_slice(&contents[kept_to..length_start]);
            put_u32(&mut out, cut.len());
            out.extend_from_slice(&cut);
            kept_to = body.end;
        }
        length_start = body.end;
    }
    if kept_to == 0 {
        return Ok(None);
    }
    out.extend_from_slice(&contents[kept_to..]);
    Ok(Some(out))
}

/// The items that the functions of a module refer to.
pub(super) struct Shape {
    /// The most bytes that each memory can have.
    memory_bytes_max: Vec<u64>,
    /// The most elements that each table can have.
    table_elements_max: Vec<u64>,
    /// The number of functions that are imported, which come first.
    functions_imported: u32,
    /// The type of each function with a body.
    functions: Vec<u32>,
    /// How many parameters each type has.
    parameters: Vec<u32>,
    /// Globals that the module has by itself: ours come after them.
    pub(super) globals: u32,
    /// The first global that holds how many bytes a segment has left.
    lefts: u32,
    /// The segments that have such a global, in order, and what they have at the start.
    long_segments: Vec<(u32, u64)>,
    cutting: Cutting,
}

impl Shape {
    fn read(bytes: &[u8], sections: &[Section], cutting: Cutting) -> Result<Self, CutError> {
        let mut shape = Self {
            memory_bytes_max: Vec::new(),
            table_elements_max: Vec::new(),
            functions_imported: 0,
            functions: Vec::new(),
            parameters: Vec::new(),
            globals: 0,
            lefts: 0,
            long_segments: Vec::new(),
            cutting,
        };
        for section in sections {
            let reader = BinaryReader::new(&bytes[section.contents.clone()], section.contents.start);
            match section.id {
                TYPES => shape.types(TypeSectionReader::new(reader)?)?,
                IMPORTS => shape.imports(ImportSectionReader::new(reader)?)?,
                FUNCTIONS => {
                    shape.functions = FunctionSectionReader::new(reader)?.into_iter().collect::<Result<_, _>>()?
                }
                TABLES => {
                    for table in TableSectionReader::new(reader)? {
                        shape.table(&table?.ty);
                    }
                }
                MEMORIES => {
                    for memory in MemorySectionReader::new(reader)? {
                        shape.memory(&memory?);
                    }
                }
                GLOBALS => shape.globals = shape.globals.saturating_add(GlobalSectionReader::new(reader)?.count()),
                DATA => shape.segments(DataSectionReader::new(reader)?)?,
                _ => {}
            }
        }
        shape.lefts = shape.globals.saturating_add(shape.ours().len() as u32);
        Ok(shape)
    }

    fn types(&mut self, types: TypeSectionReader<'_>) -> Result<(), CutError> {
        for group in types {
            for ty in group?.into_types() {
                self.parameters.push(match ty.composite_type.inner {
                    CompositeInnerType::Func(function) => function.params().len() as u32,
                    _ => 0,
                });
            }
        }
        Ok(())
    }

    fn imports(&mut self, imports: ImportSectionReader<'_>) -> Result<(), CutError> {
        for import in imports.into_imports() {
            match import?.ty {
                TypeRef::Func(_) | TypeRef::FuncExact(_) => self.functions_imported += 1,
                TypeRef::Memory(memory) => self.memory(&memory),
                TypeRef::Global(_) => self.globals += 1,
                TypeRef::Table(table) => self.table(&table),
                TypeRef::Tag(_) => {}
            }
        }
        Ok(())
    }

    fn memory(&mut self, memory: &MemoryType) {
        let bytes_max = memory.maximum.map_or(MEMORY_BYTES_MAX, |pages| pages.saturating_mul(PAGE_BYTES));
        self.memory_bytes_max.push(bytes_max);
    }

    fn table(&mut self, table: &TableType) {
        self.table_elements_max.push(table.maximum.unwrap_or(u64::MAX));
    }

    fn segments(&mut self, segments: DataSectionReader<'_>) -> Result<(), CutError> {
        for (index, segment) in segments.into_iter().enumerate() {
            let segment = segment?;
            // An active segment is dropped before anything of the guest runs.
            if matches!(segment.kind, DataKind::Passive)
                && segment.data.len() as u64 > u64::from(self.cutting.piece_bytes)
            {
                self.long_segments.push((index as u32, segment.data.len() as u64));
            }
        }
        Ok(())
    }

    /// The most bytes that a memory can have.
    pub(super) fn memory_bytes_max(&self, memory: u32) -> u64 {
        self.memory_bytes_max.get(memory as usize).copied().unwrap_or(MEMORY_BYTES_MAX)
    }

    /// The most elements that a table can have.
    pub(super) fn table_elements_max(&self, table: u32) -> u64 {
        self.table_elements_max.get(table as usize).copied().unwrap_or(u64::MAX)
    }

    /// The global that holds what a segment has left; `None` when it is not long.
    pub(super) fn left(&self, segment: u32) -> Option<u32> {
        let place = self.long_segments.binary_search_by_key(&segment, |(index, _)| *index).ok()?;
        Some(self.lefts + place as u32)
    }

    /// How many parameters a function with a body has.
    pub(super) fn parameters(&self, index: u32) -> u32 {
        let ty = self.functions.get(index as usize).copied().unwrap_or_default();
        self.parameters.get(ty as usize).copied().unwrap_or_default()
    }

    /// The number of a function with a body among all functions.
    pub(super) fn function_index(&self, index: u32) -> u32 {
        self.functions_imported.saturating_add(index)
    }

    /// The globals that hold variables and constants of ours: whether each can change, and its
    /// value at the start.
    fn ours(&self) -> Vec<(bool, i64)> {
        if self.cutting.fuel == Fuel::Uncounted {
            return Vec::new();
        }
        let variables = (0..VARIABLES).map(|_| (true, 0));
        variables.chain(constants(self.cutting).map(|constant| (false, constant))).collect()
    }

    /// The contents of the section of globals with ours after the guest's; `None` when there are
    /// none of ours.
    fn globals_section(&self, bytes: &[u8], sections: &[Section]) -> Cut {
        let mut globals = self.ours();
        globals.extend(self.long_segments.iter().map(|(_, length)| (true, *length as i64)));
        if globals.is_empty() {
            return Ok(None);
        }
        let mut out = Vec::new();
        match sections.iter().find(|section| section.id == GLOBALS) {
            Some(section) => {
                let mut reader = BinaryReader::new(&bytes[section.contents.clone()], 0);
                put_u32(&mut out, reader.read_var_u32()? as usize + globals.len());
                out.extend_from_slice(
                    &bytes[section.contents.start + reader.original_position()..section.contents.end],
                );
            }
            None => put_u32(&mut out, globals.len()),
        }
        for (mutable, value) in globals {
            GlobalType { val_type: ValType::I64, mutable, shared: false }.encode(&mut out);
            ConstExpr::i64_const(value).encode(&mut out);
        }
        Ok(Some(out))
    }
}
