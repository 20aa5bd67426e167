//! What an actix-web application needs: failures as responses, calls that end with their request, and uploads that go where
//! they are read.

mod errors;
mod response_error;

pub use errors::{json_response, response, status};
#[doc(hidden)]
pub use response_error::__private;
