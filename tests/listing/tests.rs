//! A small crate for each form in which a name becomes public, stays private, or cannot be listed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{modules, names};

/// Lists a crate of these files. It may name the crates `std` and `other`.
fn listing(files: &[(&str, &str)]) -> Vec<String> {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let others = BTreeSet::from(["std", "other"].map(str::to_owned));
    let library = modules::load("src/lib.rs", others, &|path| files.get(path).map(|text| (*text).to_owned()));
    names::list(&library).into_iter().collect()
}

fn root(text: &str) -> Vec<String> {
    listing(&[("src/lib.rs", text)])
}

#[track_caller]
fn check(table: &[(&str, &[&str])]) {
    for (text, expected) in table {
        assert_eq!(root(text), *expected, "{text}");
    }
}

#[test]
fn items_of_every_kind_are_listed_and_private_ones_are_not() {
    check(&[
        (
            "pub struct A; pub enum B {} pub trait C {} pub fn d() {} pub const E: u8 = 0; pub type F = u8;\n\
                pub static G: u8 = 0; pub union H { i: u8 } pub mod j { pub async fn k() {} }",
            &[
                "const forkpool::E",
                "enum forkpool::B",
                "fn forkpool::d",
                "fn forkpool::j::k",
                "mod forkpool::j",
                "static forkpool::G",
                "struct forkpool::A",
                "trait forkpool::C",
                "type forkpool::F",
                "union forkpool::H",
            ],
        ),
        ("struct A; pub(crate) fn b() {} mod c { pub struct D; } pub(in crate::c) const E: u8 = 0;", &[]),
        (
            "#[non_exhaustive] pub struct A; #[cfg_attr(unix, non_exhaustive)] pub enum B {}",
            &["enum forkpool::B (non-exhaustive)", "struct forkpool::A (non-exhaustive)"],
        ),
    ]);
}

#[test]
fn reexports_are_followed_in_every_form() {
    const MODULES: &str =
        "mod a { pub struct B; pub fn c() {} pub(crate) struct P; pub mod d { pub struct E; } }\n";
    let table: &[(&str, &[&str])] = &[
        ("pub use a::B;", &["struct forkpool::B"]),
        ("pub use crate::a::B;", &["struct forkpool::B"]),
        ("pub use self::a::B as C;", &["struct forkpool::C"]),
        ("pub use a::{B, c as f};", &["fn forkpool::f", "struct forkpool::B"]),
        ("pub use a::{d::{E}, c};", &["fn forkpool::c", "struct forkpool::E"]),
        ("pub use a::d::{self};", &["mod forkpool::d", "struct forkpool::d::E"]),
        ("pub use a::{d as z};", &["mod forkpool::z", "struct forkpool::z::E"]),
        (
            "pub use a::*;",
            &["fn forkpool::c", "mod forkpool::d", "struct forkpool::B", "struct forkpool::d::E"],
        ),
        ("mod x { pub use crate::a::B; } pub use x::B;", &["struct forkpool::B"]),
        ("mod x { pub(crate) use crate::a; } pub use x::a::B;", &["struct forkpool::B"]),
        ("mod x { pub use super::a::*; } pub use x::c;", &["fn forkpool::c"]),
        (
            "mod x { pub use super::a::d::*; pub use super::a::c; } pub use x::*;",
            &["fn forkpool::c", "struct forkpool::E"],
        ),
        ("use a::d; pub use d::E;", &["struct forkpool::E"]),
        (
            "pub mod x { pub mod y { pub use super::super::a::B; } }",
            &["mod forkpool::x", "mod forkpool::x::y", "struct forkpool::x::y::B"],
        ),
        (
            "pub use a::B; pub mod prelude { pub use super::B; pub use crate::a::c; }",
            &[
                "fn forkpool::prelude::c",
                "mod forkpool::prelude",
                "struct forkpool::B",
                "struct forkpool::prelude::B",
            ],
        ),
        ("use a::B; pub(crate) use a::c;", &[]),
        ("extern crate self as me; pub use me::a::B;", &["struct forkpool::B"]),
    ];
    for (text, expected) in table {
        assert_eq!(root(&format!("{MODULES}{text}")), *expected, "{text}");
    }
}

#[test]
fn names_that_a_module_has_twice_are_kept_apart() {
    check(&[
        ("mod a { pub fn a() {} } pub use a::a;", &["fn forkpool::a"]),
        (
            "mod a { pub fn b() {} } mod x { use crate::a as b; pub use crate::a::b; } pub use x::b;",
            &["fn forkpool::b"],
        ),
        // The own one goes before the one of a glob.
        (
            "mod a { pub struct B { pub c: u8 } pub fn d() {} } pub use a::*; pub struct B { pub e: u8 }",
            &["field forkpool::B::e", "fn forkpool::d", "struct forkpool::B"],
        ),
        ("mod a { pub struct B; pub fn d() {} } pub use a::*; struct B;", &["fn forkpool::d"]),
    ]);
}

#[test]
fn modules_that_name_each_other_end() {
    check(&[
        (
            "pub mod a { pub use super::*; pub struct B; }",
            &["mod forkpool::a", "mod forkpool::a::a", "struct forkpool::a::B"],
        ),
        (
            "mod a { pub use crate::b::*; pub struct C; } mod b { pub use crate::a::*; } pub use b::*;",
            &["struct forkpool::C"],
        ),
    ]);
}

#[test]
fn variants_may_be_reexported() {
    check(&[
        ("mod a { pub enum B { C, D } } pub use a::B::C;", &["variant forkpool::C"]),
        ("mod a { pub enum B { C, D } } pub use a::B::*;", &["variant forkpool::C", "variant forkpool::D"]),
    ]);
}

#[test]
fn what_belongs_to_other_crates_is_listed_by_its_path() {
    check(&[
        ("pub use other::A;", &["use forkpool::A from other::A"]),
        (
            "pub use ::other::a::{B as C, d};",
            &["use forkpool::C from other::a::B", "use forkpool::d from other::a::d"],
        ),
        ("use std::fmt; pub use fmt::Debug;", &["use forkpool::Debug from std::fmt::Debug"]),
        (
            "pub mod prelude { pub use other::prelude::*; }",
            &["mod forkpool::prelude", "use forkpool::prelude::* from other::prelude::*"],
        ),
        ("mod a { pub use other::B; } pub use a::*;", &["use forkpool::B from other::B"]),
        ("pub extern crate other;", &["use forkpool::other from other"]),
        // A module of this crate goes before a crate of its name.
        ("mod other { pub struct A; } pub use other::A;", &["struct forkpool::A"]),
    ]);
}

#[test]
fn hidden_names_and_those_of_tests_are_left_out() {
    check(&[
        (
            "#[doc(hidden)] pub struct A; #[cfg(test)] pub struct B; #[cfg(any(test, fuzzing))] pub fn c() {}",
            &[],
        ),
        (
            "#[doc(hidden)] pub mod a { pub struct B; } #[cfg(test)] mod missing; #[cfg(doctest)] pub struct C;",
            &[],
        ),
        (
            "pub mod a { #![doc(hidden)] pub struct B; } pub mod c { #![cfg(test)] pub struct D; }",
            &[
            // An inner attribute of a module in braces belongs to the module as well.
        ],
        ),
        (
            "mod a { pub struct B; #[doc(hidden)] pub struct C; } #[doc(hidden)] pub use a::B; pub use a::C;",
            &[],
        ),
        ("mod a { pub struct B; #[doc(hidden)] pub struct C; } pub use a::*;", &["struct forkpool::B"]),
        ("#[doc(hidden)] pub mod a { pub struct B; } pub use a::B;", &["struct forkpool::B"]),
        ("#[doc(hidden)] #[macro_export] macro_rules! a { () => {} } #[cfg(test)] pub use no::B;", &[]),
        (
            "pub struct A { #[doc(hidden)] pub b: u8, #[cfg(test)] pub c: u8 } pub enum D { #[doc(hidden)] E }",
            &["enum forkpool::D", "struct forkpool::A"],
        ),
        (
            "pub struct A; impl A { #[doc(hidden)] pub fn b() {} #[cfg(test)] pub fn c() {} }\n\
            #[cfg(test)] impl A { pub fn d() {} } #[cfg_attr(test, derive(Debug))] pub struct E;",
            &["struct forkpool::A", "struct forkpool::E"],
        ),
        ("pub trait A { #[doc(hidden)] fn b(); #[doc(hidden)] const C: u8; }", &["trait forkpool::A"]),
    ]);
}

#[test]
fn features_exclude_nothing_and_opposite_conditions_give_one_line() {
    check(&[
        (
            "#[cfg(feature = \"a\")] pub struct A; #[cfg(not(test))] pub struct B;",
            &["struct forkpool::A", "struct forkpool::B"],
        ),
        (
            "#[cfg(unix)] pub struct A { pub b: u8 } #[cfg(not(unix))] pub struct A { pub b: u16, pub c: u8 }\n\
            impl A { #[cfg(unix)] pub fn d() {} #[cfg(not(unix))] pub fn d() {} }",
            &["field forkpool::A::b", "field forkpool::A::c", "fn forkpool::A::d", "struct forkpool::A"],
        ),
        (
            "#[cfg(unix)] mod a { pub fn b() {} } #[cfg(not(unix))] mod a { pub fn b() {} } pub use a::b;",
            &["fn forkpool::b"],
        ),
    ]);
}

#[test]
fn exported_macros_are_in_the_root_wherever_they_are() {
    check(&[
        (
            "mod a { #[macro_export] macro_rules! b { () => {} } macro_rules! c { () => {} } }",
            &["macro forkpool::b"],
        ),
        (
            "#[macro_export] macro_rules! b { () => {} } pub mod prelude { pub use crate::b; }",
            &["macro forkpool::b", "macro forkpool::prelude::b", "mod forkpool::prelude"],
        ),
    ]);
}

#[test]
fn members_are_listed_once_under_the_shortest_path() {
    check(&[
        (
            "pub struct A { pub b: u8, c: u8, pub(crate) d: u8 } pub struct E(u8, pub u8);",
            &["field forkpool::A::b", "field forkpool::E::1", "struct forkpool::A", "struct forkpool::E"],
        ),
        (
            "pub enum A { B, #[non_exhaustive] C { d: u8 }, E(u8) }",
            &[
                "enum forkpool::A",
                "field forkpool::A::C::d",
                "field forkpool::A::E::0",
                "variant forkpool::A::B",
                "variant forkpool::A::C (non-exhaustive)",
                "variant forkpool::A::E",
            ],
        ),
        (
            "pub trait A { type B; const C: u8; fn d(); fn e() {} }",
            &[
                "const forkpool::A::C",
                "fn forkpool::A::d",
                "fn forkpool::A::e",
                "trait forkpool::A",
                "type forkpool::A::B",
            ],
        ),
        (
            "mod a { pub struct B; impl B { pub fn c() {} } } pub mod prelude { pub use crate::a::B; } pub use a::B;",
            &[
                "fn forkpool::B::c",
                "mod forkpool::prelude",
                "struct forkpool::B",
                "struct forkpool::prelude::B",
            ],
        ),
    ]);
}

#[test]
fn implementations_are_found_in_any_module() {
    check(&[
        (
            "pub struct A<T>(T); impl<T> A<T> { pub const B: u8 = 0; pub fn c() {} fn d() {} pub(crate) fn e() {} }",
            &["const forkpool::A::B", "fn forkpool::A::c", "struct forkpool::A"],
        ),
        (
            "pub struct A; mod b { use super::A as C; impl C { pub fn d() {} } type D = C; impl D { pub fn e() {} } }",
            &["fn forkpool::A::d", "fn forkpool::A::e", "struct forkpool::A"],
        ),
        (
            "pub struct A; mod b { mod c { use super::super::*; impl A { pub fn d() {} } } }",
            &["fn forkpool::A::d", "struct forkpool::A"],
        ),
        // Two types of one name.
        (
            "pub mod a { pub struct A; } pub mod b { pub struct A; impl A { pub fn c() {} } } impl a::A { pub fn d() {} }",
            &[
                "fn forkpool::a::A::d",
                "fn forkpool::b::A::c",
                "mod forkpool::a",
                "mod forkpool::b",
                "struct forkpool::a::A",
                "struct forkpool::b::A",
            ],
        ),
        (
            "pub trait A {} impl dyn A { pub fn b() {} } const _: () = { impl dyn A + Send { pub fn c() {} } };",
            &["fn forkpool::A::b", "fn forkpool::A::c", "trait forkpool::A"],
        ),
    ]);
}

#[test]
fn traits_are_listed_by_their_last_identifier() {
    check(&[
        (
            "#[derive(Clone, std::fmt::Debug)] #[cfg_attr(unix, derive(Copy))] pub struct A;",
            &[
                "impl Clone for forkpool::A",
                "impl Copy for forkpool::A",
                "impl Debug for forkpool::A",
                "struct forkpool::A",
            ],
        ),
        (
            "#[derive(thiserror::Error)] pub enum A { B(#[from] std::io::Error) }",
            &[
                "enum forkpool::A",
                "field forkpool::A::B::0",
                "impl Display for forkpool::A",
                "impl Error for forkpool::A",
                "impl From<std::io::Error> for forkpool::A",
                "variant forkpool::A::B",
            ],
        ),
        (
            "pub struct A<T>(T); impl<'a, T> other::B<'a, Vec<T>> for A<T> {} unsafe impl<T> Send for &mut A<T> {}",
            &["impl B<Vec<T>> for forkpool::A", "impl Send for &mut forkpool::A", "struct forkpool::A"],
        ),
        // Types of other crates, if the trait or an argument is of this one.
        (
            "pub struct A; pub trait B {} impl From<A> for Vec<u8> {} impl<T> B for T {} impl Clone for Vec<u8> {}",
            &["impl B for T", "impl From<A> for Vec<u8>", "struct forkpool::A", "trait forkpool::B"],
        ),
        // A parameter is not the private type of its name.
        (
            "pub struct A; struct T; impl<T> other::B<T> for A {}",
            &["impl B<T> for forkpool::A", "struct forkpool::A"],
        ),
        // What users cannot name does not reach them.
        (
            "pub struct A; struct B; trait C {} impl C for A {} impl From<B> for A {} impl Clone for B {}",
            &["struct forkpool::A"],
        ),
        (
            "macro_rules! a { ($($t:ty),*) => { $(impl other::A<$t> for B {})* } } pub struct B; a!(u8, Vec<u8>);",
            &["impl A<Vec<u8>> for forkpool::B", "impl A<u8> for forkpool::B", "struct forkpool::B"],
        ),
    ]);
}

#[test]
fn modules_are_read_from_their_files() {
    let found = listing(&[
        ("src/lib.rs", "pub mod a; pub mod b; #[path = \"../c/mod.rs\"] pub mod c; pub mod d { pub mod e; }"),
        ("src/a.rs", "pub mod f; #[path = \"elsewhere.rs\"] pub mod g;"),
        ("src/a/f.rs", "pub fn f() {}"),
        ("src/elsewhere.rs", "pub fn g() {}"),
        ("src/b/mod.rs", "pub mod h;"),
        ("src/b/h.rs", "pub fn h() {}"),
        ("c/mod.rs", "pub mod i; mod hidden;"),
        ("c/i.rs", "#![doc(hidden)] pub fn i() {}"),
        ("c/hidden.rs", "#![cfg(test)] mod missing; pub use no::B;"),
        ("src/d/e.rs", "pub fn e() {}"),
    ]);
    let functions: Vec<&str> = found.iter().filter_map(|line| line.strip_prefix("fn ")).collect();
    let expected = ["forkpool::a::f::f", "forkpool::a::g::g", "forkpool::b::h::h", "forkpool::d::e::e"];
    assert_eq!(functions, expected);
}

#[test]
#[should_panic = "src/lib.rs: mod a has neither src/a.rs nor src/a/mod.rs"]
fn a_module_without_a_file_is_reported() {
    root("mod a;");
}

#[test]
#[should_panic = "src/lib.rs: the listing cannot find what `pub use a::B` re-exports"]
fn a_reexport_of_nothing_is_reported() {
    root("mod a {} pub use a::B;");
}

#[test]
#[should_panic = "src/lib.rs: the listing cannot find what `pub use unknown` re-exports"]
fn a_glob_of_an_unknown_crate_is_reported() {
    root("pub use unknown::*;");
}

#[test]
#[should_panic = "src/lib.rs: the listing cannot find what `pub use B` re-exports"]
fn a_name_that_only_another_crates_glob_may_have_is_reported() {
    root("use other::*; pub use B;");
}

#[test]
#[should_panic = "src/lib.rs: the listing does not know made!"]
fn a_call_of_an_unknown_macro_is_reported() {
    root("made!(pub struct A;);");
}

#[test]
#[should_panic = "src/lib.rs: the listing cannot find which A an implementation is for"]
fn an_implementation_for_a_type_that_is_not_in_scope_is_reported() {
    root("pub struct A; mod b { impl A { pub fn c() {} } }");
}
