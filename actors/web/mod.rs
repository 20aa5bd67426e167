//! What an actix-web application needs: failures as responses, calls that end with their request, and uploads that go where
//! they are read.

mod blob_body;
#[cfg(feature = "actix-multipart")]
mod blob_field;
mod blob_response;
mod body_pieces;
mod bound_call;
mod bound_checkout;
mod client;
mod config;
mod connection;
mod dashboard;
mod deadline;
mod errors;
mod lookup;
mod pace;
mod pool;
mod pools;
mod requests;
mod response_error;
mod run;
mod upload;
mod upload_error;

pub use blob_body::{BlobBody, BlobConfig};
#[cfg(feature = "actix-multipart")]
#[cfg_attr(docsrs, doc(cfg(feature = "actix-multipart")))]
pub use blob_field::{BlobField, multipart_error};
pub use blob_response::body;
pub use bound_call::BoundCall;
pub use bound_checkout::{BoundCheckout, BoundCheckoutBuilder};
pub use client::{ClientGone, ClientPolicy, on_connect};
pub use config::Config;
pub use dashboard::{Dashboard, Detail, dashboard};
pub use errors::{json_response, response, status};
pub use pool::Pool;
pub use pools::Pools;
pub use requests::Requests;
#[doc(hidden)]
pub use response_error::__private;
pub use run::{RunHandle, Running, run};
pub use upload_error::UploadError;
