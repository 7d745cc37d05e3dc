//! From an annotated function to the function and its export.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, ReturnType, Safety, Signature, Type};

pub(crate) fn task(arguments: TokenStream, function: TokenStream) -> Result<TokenStream, Error> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "#[task] takes no arguments"));
    }
    let function: ItemFn = syn::parse2(function).map_err(|error| {
        Error::new(error.span(), "#[task] goes on a function: `fn name(ctx: &Context, input: Input)`")
    })?;
    check_qualifiers(&function.sig)?;
    let adapter = adapter(&function.sig)?;
    // Types in messages point at the signature, not at the attribute.
    let span = function.sig.output.span();
    let export = quote_spanned! {span=>
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Task;
            impl ::wasmill_guest::__private::bindings::Guest for Task {
                fn run(
                    payload: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<::std::vec::Vec<u8>, ::wasmill_guest::__private::Failure> {
                    ::wasmill_guest::__private::run(#adapter, payload)
                }
            }
            ::wasmill_guest::__private::bindings::export!(Task with_types_in ::wasmill_guest::__private::bindings);
        };

        // Elsewhere the same bounds are checked, and the function counts as used.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(
            &::wasmill_guest::Context,
            ::std::vec::Vec<u8>,
        ) -> ::std::result::Result<::std::vec::Vec<u8>, ::wasmill_guest::Error> =
            |ctx, payload| ::wasmill_guest::invoke(#adapter, ctx, payload);
    };
    Ok(quote!(#function #export))
}

/// Refuses what cannot be called from outside.
fn check_qualifiers(signature: &Signature) -> Result<(), Error> {
    if let Some(keyword) = &signature.asyncness {
        return Err(Error::new_spanned(
            keyword,
            "a task function is not async: an attempt runs one task and may block",
        ));
    }
    if let Safety::Unsafe(keyword) = &signature.safety {
        return Err(Error::new_spanned(keyword, "a task function is not unsafe"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(abi, "a task function is a plain Rust function; #[task] adds the export"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &signature.generics,
            "a task function is not generic: the server calls exactly one",
        ));
    }
    if matches!(signature.output, ReturnType::Default) {
        return Err(Error::new_spanned(signature, "a task function returns `Result<Output, wasmill_guest::Error>`"));
    }
    Ok(())
}

/// A closure that takes context and input, whichever of them the function wants.
fn adapter(signature: &Signature) -> Result<TokenStream, Error> {
    let name = &signature.ident;
    let parameters = signature.inputs.iter().map(parameter_type).collect::<Result<Vec<_>, _>>()?;
    match parameters[..] {
        // The input of a function without one is whatever the caller sent: it is not looked at.
        [] => Ok(quote!(|_, _: ::std::vec::Vec<u8>| #name())),
        [Type::Reference(_)] => Ok(quote!(|ctx, _: ::std::vec::Vec<u8>| #name(ctx))),
        [input] => Ok(quote!(|_, input: #input| #name(input))),
        [Type::Reference(_), Type::Reference(input)] => {
            Err(Error::new_spanned(input, "the input is taken by value, such as `input: Input` or `input: Vec<u8>`"))
        }
        [Type::Reference(_), _] => Ok(quote!(#name)),
        [first, _] => Err(Error::new_spanned(first, "the first of two parameters is the context: `ctx: &Context`")),
        [_, _, third, ..] => Err(Error::new_spanned(
            third,
            "a task function takes at most a context and one input: `ctx: &Context, input: Input`",
        )),
    }
}

fn parameter_type(parameter: &FnArg) -> Result<&Type, Error> {
    match parameter {
        FnArg::Typed(typed) => Ok(&typed.ty),
        FnArg::Receiver(receiver) => Err(Error::new_spanned(receiver, "a task is a free function, not a method")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(arguments: &str, function: &str) -> String {
        let [arguments, function] = [arguments, function].map(|code| code.parse().expect("a case is made of tokens"));
        task(arguments, function).expect_err("the function must be refused").to_string()
    }

    #[test]
    fn the_function_is_kept_as_it_is() {
        let function = quote! {
            /// Counts.
            pub fn count(ctx: &Context, input: Input) -> Result<Output, Error> { body() }
        };
        let expanded = task(TokenStream::new(), function.clone()).expect("the signature is good").to_string();
        assert!(expanded.starts_with(&function.to_string()), "{expanded}");
        assert!(expanded.contains("bindings :: Guest for Task"), "{expanded}");
    }

    #[test]
    fn every_shape_of_parameters_has_its_adapter() {
        let cases = [
            (
                quote!(
                    fn f() -> R {}
                ),
                "| _ , _ : :: std :: vec :: Vec < u8 > | f ()",
            ),
            (
                quote!(
                    fn f(ctx: &Context) -> R {}
                ),
                "| ctx , _ : :: std :: vec :: Vec < u8 > | f (ctx)",
            ),
            (
                quote!(
                    fn f(input: Input) -> R {}
                ),
                "| _ , input : Input | f (input)",
            ),
            (
                quote!(
                    fn f(ctx: &Context, input: Input) -> R {}
                ),
                "f",
            ),
        ];
        for (function, expect) in cases {
            let function: ItemFn = syn::parse2(function).expect("a case is a function");
            assert_eq!(adapter(&function.sig).expect("a case is a good signature").to_string(), expect);
        }
    }

    #[test]
    fn a_wrong_function_is_refused_with_the_reason() {
        let cases = [
            ("async fn f() -> R {}", "not async"),
            ("unsafe fn f() -> R {}", "not unsafe"),
            ("extern \"C\" fn f() -> R {}", "plain Rust function"),
            ("fn f<T>(input: T) -> R {}", "not generic"),
            ("fn f(input: Input) {}", "returns `Result<"),
            ("fn f(input: Input, ctx: &Context) -> R {}", "first of two parameters is the context"),
            ("fn f(ctx: &Context, input: &Input) -> R {}", "taken by value"),
            ("fn f(ctx: &Context, a: A, b: B) -> R {}", "at most a context and one input"),
            ("fn f(&self) -> R {}", "not a method"),
            ("struct S;", "goes on a function"),
        ];
        for (function, expect) in cases {
            let message = message("", function);
            assert!(message.contains(expect), "{function}: {message}");
        }
        assert_eq!(message("name = 1", "fn f() -> R {}"), "#[task] takes no arguments");
    }
}
