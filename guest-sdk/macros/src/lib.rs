//! The `#[task]` attribute of `wasmill-guest`. Use it through that crate, which documents it.

mod expand;

use proc_macro::TokenStream;

/// Makes a function the entry point of a Wasmill task.
///
/// The function takes a `&Context`, an input, both in this order, or neither, and returns a
/// `Result` whose error converts into `wasmill_guest::Error`. Input and output are JSON, or the
/// bytes as they are where the type is `Vec<u8>`. A crate has one task.
///
/// The function itself is not changed, so tests call it like any other. The component's export is
/// added when the target is WebAssembly; on other targets the signature is checked in the same way
/// and nothing is added.
#[proc_macro_attribute]
pub fn task(arguments: TokenStream, function: TokenStream) -> TokenStream {
    let function = proc_macro2::TokenStream::from(function);
    expand::task(arguments.into(), function.clone())
        .unwrap_or_else(|error| {
            // The function stays, so that one wrong signature does not also make every mention of
            // it an error.
            let error = error.into_compile_error();
            quote::quote!(#function #error)
        })
        .into()
}
