//! Releases of one interface: what a client of one finds at a server of another.

use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{Server, ServerError};
use serde::{Deserialize, Serialize};

use crate::roles::Words;

/// Declares a release: a module with a worker of the name `Clerk`, whose messages and results are these.
macro_rules! release {
    ($release:ident { $($interface:ident),+ }
        Add { $($add:tt)* } Order { $($order:tt)* } Receipt { $($receipt:tt)* } Problem { $($problem:tt)* }
    ) => {
        pub mod $release {
            use super::*;

            #[derive(Debug)]
            pub struct Clerk;

            impl Actor for Clerk {
                type Context = WorkerContext<Self>;
            }

            impl Worker for Clerk {
                type Config = ();

                fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
                    Ok(Clerk)
                }
            }

            #[derive(Debug, Message, Serialize, Deserialize)]
            #[rtype(result = "Result<u32, Failure>")]
            pub struct Add { $($add)* }

            #[derive(Debug, Message, Serialize, Deserialize)]
            #[rtype(result = "Result<Receipt, Problem>")]
            pub enum Order { $($order)* }

            #[derive(Debug, PartialEq, Serialize, Deserialize)]
            pub enum Receipt { $($receipt)* }

            #[derive(Debug, Serialize, Deserialize)]
            pub enum Problem { Worker(Failure), $($problem)* }

            impl From<Failure> for Problem {
                fn from(failure: Failure) -> Self {
                    Problem::Worker(failure)
                }
            }

            /// A message that not every release has.
            #[derive(Debug, Message, Serialize, Deserialize)]
            #[rtype(result = "Result<String, Failure>")]
            pub struct Release;

            impl Handler<Add> for Clerk {
                type Result = Result<u32, Failure>;

                fn handle(&mut self, add: Add, _: &mut WorkerContext<Self>) -> Self::Result {
                    Ok(add.a + 1)
                }
            }

            impl Handler<Order> for Clerk {
                type Result = Result<Receipt, Problem>;

                fn handle(&mut self, _: Order, _: &mut WorkerContext<Self>) -> Self::Result {
                    Ok(Receipt::Plain(stringify!($release).to_owned()))
                }
            }

            impl Handler<Release> for Clerk {
                type Result = Result<String, Failure>;

                fn handle(&mut self, _: Release, _: &mut WorkerContext<Self>) -> Self::Result {
                    Ok(stringify!($release).to_owned())
                }
            }

            forkpool::interface!(Clerk { $($interface),+ });
            forkpool::boot!(Clerk);
        }
    };
}

release! { first { Add, Order }
    Add { pub a: u32 } Order { Plain(u32) } Receipt { Plain(String) } Problem { Full }
}
release! { grown { Release, Order, Add }
    Add { pub a: u32 } Order { Plain(u32) } Receipt { Plain(String) } Problem { Full }
}
release! { shrunk { Add }
    Add { pub a: u32 } Order { Plain(u32) } Receipt { Plain(String) } Problem { Full }
}
release! { field_added { Add, Order }
    Add { pub a: u32, #[serde(default)] pub b: u32 } Order { Plain(u32) } Receipt { Plain(String) } Problem { Full }
}
release! { field_renamed { Add, Order }
    Add { #[serde(rename = "number")] pub a: u32 } Order { Plain(u32) } Receipt { Plain(String) } Problem { Full }
}
release! { field_widened { Add, Order }
    Add { #[serde(with = "wide")] pub a: u32 } Order { Plain(u32) } Receipt { Plain(String) } Problem { Full }
}
release! { variant_in_message { Add, Order }
    Add { pub a: u32 } Order { Plain(u32), Urgent } Receipt { Plain(String) } Problem { Full }
}
release! { variant_in_result { Add, Order }
    Add { pub a: u32 } Order { Plain(u32) } Receipt { Plain(String), Signed } Problem { Full }
}
release! { variant_in_error { Add, Order }
    Add { pub a: u32 } Order { Plain(u32) } Receipt { Plain(String) } Problem { Full, Closed }
}

/// The first release, whose messages are methods.
pub mod by_methods {
    use super::*;
    pub use first::{Problem, Receipt};

    #[derive(Debug, Worker)]
    pub struct Clerk;

    #[forkpool::methods(also(first::Order))]
    impl Clerk {
        pub fn add(&mut self, a: u32) -> Result<u32, Failure> {
            Ok(a + 1)
        }
    }

    impl Handler<first::Order> for Clerk {
        type Result = Result<Receipt, Problem>;

        fn handle(&mut self, _: first::Order, _: &mut WorkerContext<Self>) -> Self::Result {
            Ok(Receipt::Plain("by_methods".to_owned()))
        }
    }

    forkpool::boot!(Clerk);
}

/// A number as if the field were an `u64`.
mod wide {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::from(*number))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        u64::deserialize(deserializer).map(|number| number as u32)
    }
}

/// Serves clerks of a release.
pub fn serve(release: &str, words: &Words<'_>, address: &str) -> Result<(), ServerError> {
    macro_rules! serve {
        ($($release:ident),+) => {
            match release {
                $(stringify!($release) => words.run(Server::<$release::Clerk>::new(()), address),)+
                other => panic!("no release {other:?}"),
            }
        };
    }
    serve!(
        first,
        by_methods,
        grown,
        shrunk,
        field_added,
        field_renamed,
        field_widened,
        variant_in_message,
        variant_in_result,
        variant_in_error
    )
}
