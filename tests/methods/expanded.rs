//! What the macros write is what one would write by hand, and reads as such.

use quote::quote;

#[test]
fn x() {
    let e = crate::expansion::methods(
        quote!(),
        quote! {
            impl Hasher {
                /// Hashes a password.
                fn hash(&mut self, plaintext: String) -> Result<String, HashError> {
                    Ok(plaintext)
                }

                /// Whether the password is this one.
                fn verify(&mut self, crypted: &str, plaintext: &str, ctx: &mut WorkerContext<Self>) -> Result<bool, HashError> {
                    Ok(crypted == plaintext)
                }
            }
        },
    );
    println!("{}", prettyplease::unparse(&syn::parse2(e).unwrap()));
}
