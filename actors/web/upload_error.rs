//! Why an upload has failed.

use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::header::ContentType;
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::{HttpResponse, ResponseError};

use crate::failure::Failure;

/// Why an upload has failed: the error of [`BlobBody`](super::BlobBody) and, in a multipart form, of `BlobField`.
///
/// The memory that the upload had taken is free by then. The response closes the connection, because the rest of the body
/// is not read: at most 64 KiB of it are, and what actix-web discards while it closes
/// ([`client_disconnect_timeout`](actix_web::HttpServer::client_disconnect_timeout), 1 s). Over HTTP/2 the stream ends and
/// the connection stays.
///
/// To answer otherwise, take the extractor as a `Result`, and look for this type:
///
/// ```no_run
/// use actix_web::{Error, HttpResponse};
/// use forkpool::prelude::*;
/// use forkpool::web::{BlobBody, UploadError};
///
/// async fn upload<W: Worker>(body: Result<BlobBody<W>, Error>) -> Result<HttpResponse, Error> {
///     match body {
///         Ok(body) => Ok(HttpResponse::Ok().body(body.into_inner().len().to_string())),
///         Err(error) => match error.as_error::<UploadError>() {
///             Some(UploadError::TooLarge { limit }) => {
///                 Ok(HttpResponse::PayloadTooLarge().body(format!("{limit} bytes are enough")))
///             }
///             _ => Err(error),
///         },
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The body, or the field, has or announces more bytes than it may have. The response is 413.
    #[error("the upload is larger than the {limit} bytes that are allowed here")]
    TooLarge {
        /// Most bytes.
        limit: usize,
    },
    /// No byte has arrived for the longest time that is allowed, [`BlobConfig::idle_timeout`](super::BlobConfig::idle_timeout).
    /// The response is 408.
    #[error("no byte of the upload has arrived for {limit:?}")]
    Stalled {
        /// Longest time without a byte.
        limit: Duration,
    },
    /// It is not complete at the deadline of its request, which [`Config`](super::Config) sets. The response is 408.
    #[error("the upload is not complete within the {limit:?} that its request has")]
    TooSlow {
        /// Time of the request.
        limit: Duration,
    },
    /// There is no memory for it: the response is that of the failure, 503 with `Retry-After`.
    #[error(transparent)]
    Failed(Failure),
    /// The client has gone away in the middle, or has sent what is no body. The response is actix-web's own.
    #[error("the upload has ended early or is malformed: {0}")]
    Interrupted(PayloadError),
}

impl ResponseError for UploadError {
    fn status_code(&self) -> StatusCode {
        match self {
            UploadError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            UploadError::Stalled { .. } | UploadError::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            UploadError::Failed(failure) => super::status(failure),
            UploadError::Interrupted(error) => error.status_code(),
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = match self {
            UploadError::Failed(failure) => super::response(failure),
            UploadError::Interrupted(error) => error.error_response(),
            UploadError::TooLarge { .. } | UploadError::Stalled { .. } | UploadError::TooSlow { .. } => {
                HttpResponse::build(self.status_code())
                    .content_type(ContentType::plaintext())
                    .body(self.to_string())
            }
        };
        response.head_mut().set_connection_type(ConnectionType::Close);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    #[test]
    fn each_error_has_its_status_and_closes_its_connection() {
        fn crossing<T: std::error::Error + Send + Sync + 'static>(_: &T) {}
        let full = Failure::of(FailureKind::Overloaded, "not enough blob_memory");
        let table = [
            (UploadError::TooLarge { limit: 7 }, 413, false),
            (UploadError::Stalled { limit: Duration::from_secs(30) }, 408, false),
            (UploadError::TooSlow { limit: Duration::from_millis(500) }, 408, false),
            (UploadError::Failed(full), 503, true),
            (UploadError::Interrupted(PayloadError::Incomplete(None)), 400, false),
            (UploadError::Interrupted(PayloadError::Overflow), 413, false),
        ];
        for (error, expected, is_retried) in table {
            crossing(&error);
            let mut response = error.error_response();
            assert_eq!(
                (response.status().as_u16(), error.status_code().as_u16()),
                (expected, expected),
                "{error}"
            );
            assert_eq!(response.headers().contains_key("retry-after"), is_retried, "{error}");
            assert!(!response.head_mut().keep_alive(), "{error}");
        }
    }
}
