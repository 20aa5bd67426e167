//! What an actix-web application needs: failures as responses, calls that end with their request, and uploads that go where
//! they are read.

mod errors;
mod pools;
mod response_error;
mod run;

pub use errors::{json_response, response, status};
pub use pools::Pools;
#[doc(hidden)]
pub use response_error::__private;
pub use run::{RunHandle, Running, run};
