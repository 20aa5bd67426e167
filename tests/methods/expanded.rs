//! What the macros write, read as files. After a change of the macros
//! `FORKPOOL_WRITE_EXPANSIONS=1 cargo test -p forkpool-methods expanded` writes them.

use std::fs;
use std::path::Path;

use proc_macro2::TokenStream;
use quote::quote;

use crate::expansion;

/// Compares an expansion with the file of this name below `expanded`.
fn compare(name: &str, tokens: TokenStream) {
    let written = prettyplease::unparse(&syn::parse2(tokens).expect("an expansion is Rust"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("expanded").join(name);
    if std::env::var_os("FORKPOOL_WRITE_EXPANSIONS").is_some() {
        return fs::write(file, written).expect("the file can be written");
    }
    assert_eq!(written, fs::read_to_string(file).expect("the expansion is there"), "{name}");
}

#[test]
fn methods_become_what_one_would_write_by_hand() {
    let block = quote! {
        impl Hasher {
            /// Hashes a password.
            ///
            /// # Errors
            ///
            /// None.
            pub fn hash(&mut self, plaintext: String) -> Result<String, HashError> {
                self.hashed(plaintext)
            }

            pub fn verify(&self, crypted: &str, ctx: &mut WorkerContext<Self>) -> Result<bool, HashError> {
                self.verified(crypted, ctx)
            }
        }
    };
    compare("hasher.rs.txt", expansion::methods(quote!(also(crate::Report)), block));
}

/// Types keep their meaning, one module deeper and beside messages that have their names.
#[test]
fn types_keep_their_meaning_in_the_module_of_messages() {
    let block = quote! {
        impl Store {
            pub(crate) fn item(&self, item: &Item) -> Result<super::Place, self::Error> {
                self.place(item)
            }

            fn string(&self, of: Vec<Self>) -> Result<String, crate::item::Item> {
                Ok(of.name())
            }

            pub(in super::super) fn slices(&self, a: &[Item], b: &'static str) -> Result<(), Failure> {
                Ok(())
            }

            #[deprecated]
            pub(super) fn r#move(&self, a: &[Item], #[serde(default)] b: [u8; 4]) -> Result<(), Failure> {
                Ok(())
            }
        }
    };
    let errors = "compile_error";
    let expanded = expansion::methods(quote!(derive(Debug), module = calls), block);
    assert_eq!(
        expanded.to_string().matches(errors).count(),
        1,
        "the lifetime is refused, and all else is there"
    );
    compare("store.rs.txt", expanded);
}

#[test]
fn a_derived_worker_is_what_one_would_write_by_hand() {
    let unit = expansion::worker(quote!(
        struct Unit;
    ));
    let default = expansion::worker(quote!(
        struct Counter {
            sum: u64,
        }
    ));
    let config = expansion::worker(quote!(
        #[worker(config = u32)]
        struct Rounds(u32);
    ));
    compare("workers.rs.txt", quote!(#unit #default #config));
}

#[test]
fn functions_become_messages_and_a_worker() {
    let function = quote! {
        /// Returns whether the password is this one.
        pub fn verify(crypted: &str, verify: Vec<Verify>) -> Result<bool, HashError> {
            Ok(false)
        }
    };
    let function = expansion::function(quote!(), function);
    let worker = expansion::functions(quote!(pub Passwords { verify, other::r#move }));
    compare("functions.rs.txt", quote!(#function #worker));
}
