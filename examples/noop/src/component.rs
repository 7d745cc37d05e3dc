//! The export, and the three things that the standard library would have brought: an allocator, the
//! function through which the server places the payload, and a panic handler.
#![allow(unsafe_code, reason = "an allocator and an exported symbol are unsafe by nature")]

extern crate alloc;

use alloc::alloc::{GlobalAlloc, Layout};
use alloc::vec::Vec;
use core::arch::wasm32;
use core::panic::PanicInfo;
use core::ptr;

/// The size of a WebAssembly page.
const PAGE_BYTES: usize = 1 << 16;

wit_bindgen::generate!({ path: "../../guest-sdk/wit", world: "task" });

struct Noop;

impl Guest for Noop {
    fn run(_payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(Vec::new())
    }
}

export!(Noop);

/// Takes fresh pages for every allocation and never gives one back: the payload is the only one
/// there is.
struct Pages;

// SAFETY: `memory.grow` gives memory that nothing else uses, and a page is aligned to more than any
// layout asks for here.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match wasm32::memory_grow::<0>(layout.size().div_ceil(PAGE_BYTES)) {
            usize::MAX => ptr::null_mut(),
            page => ptr::without_provenance_mut(page * PAGE_BYTES),
        }
    }

    unsafe fn dealloc(&self, _pointer: *mut u8, _layout: Layout) {}
}

#[global_allocator]
static PAGES: Pages = Pages;

/// Where the server puts the payload; part of the canonical ABI. It only ever asks for new memory
/// here.
// SAFETY: no other function of the component has this name.
#[unsafe(no_mangle)]
extern "C" fn cabi_realloc(_old: *mut u8, _old_size: usize, align: usize, size: usize) -> *mut u8 {
    let Ok(layout) = Layout::from_size_align(size, align) else { wasm32::unreachable() };
    if size == 0 {
        return ptr::without_provenance_mut(align);
    }
    // SAFETY: the layout is not empty.
    match unsafe { PAGES.alloc(layout) } {
        pages if pages.is_null() => wasm32::unreachable(),
        pages => pages,
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    wasm32::unreachable()
}
