//! The names that are made of others, and those that handles have already.

use proc_macro2::Ident;
use syn::ext::IdentExt;

/// The methods that a handle, or the address of a checkout, has already: `pool.stop()` would not be the worker's. A test
/// compares them with the public names.
pub(crate) const TAKEN: &[&str] = &[
    "abort",
    "addr",
    "blob",
    "blob_up_to",
    "call",
    "call_batch",
    "call_within",
    "checkout",
    "class",
    "clone",
    "connected",
    "console",
    "do_send",
    "downgrade",
    "into",
    "kill_worker",
    "name",
    "pause",
    "pool",
    "ready",
    "recipient",
    "recycle",
    "resume",
    "send",
    "send_batch",
    "send_within",
    "server_stats",
    "service",
    "snapshot",
    "stats",
    "stop",
    "to_owned",
    "try_into",
    "try_send",
];

/// `Sha256Hasher` becomes `sha256_hasher`, and `HTTPClient` becomes `http_client`.
pub(super) fn snake_case(name: &Ident) -> Ident {
    let chars: Vec<char> = name.unraw().to_string().chars().collect();
    let mut snake = String::new();
    for (at, &char) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| chars[at]);
        let begins_word = char.is_uppercase()
            && before.is_some_and(|before| {
                let next_is_lower = chars.get(at + 1).is_some_and(|next| next.is_lowercase());
                before != '_' && (!before.is_uppercase() || next_is_lower)
            });
        if begins_word {
            snake.push('_');
        }
        snake.extend(char.to_lowercase());
    }
    ident(&snake, name)
}

/// `send_all` becomes `SendAll`.
pub(super) fn camel_case(name: &Ident) -> Ident {
    let mut camel = String::new();
    for word in name.unraw().to_string().split('_') {
        let mut chars = word.chars();
        camel.extend(chars.next().into_iter().flat_map(char::to_uppercase));
        camel.push_str(chars.as_str());
    }
    ident(&camel, name)
}

/// A name at the place of another one. One that is a keyword becomes raw, and `Self`, which cannot, gets a dash.
fn ident(text: &str, of: &Ident) -> Ident {
    if text == "Self" {
        return Ident::new("Self_", of.span());
    }
    match syn::parse_str::<Ident>(text) {
        Ok(_) => Ident::new(text, of.span()),
        Err(_) => Ident::new_raw(text, of.span()),
    }
}
