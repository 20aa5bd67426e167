//! Errors of users' own as responses.

/// Makes an error enum of yours a response, `impl actix_web::ResponseError`, where one variant holds a
/// [`Failure`](crate::Failure).
///
/// The first entry is the variant with the failure; its response is that of [`web::response`](crate::web::response), which
/// tells the client nothing of the failure and logs its report. Every other entry gives variants a status, by the name of
/// a constant of `actix_web::http::StatusCode`. Their body is the error's own `Display`, as one line of text, so that must
/// be fit for clients. `_` is the status of all other variants; without it, a variant that has no entry does not compile.
///
/// ```
/// use forkpool::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, thiserror::Error, Serialize, Deserialize)]
/// enum ShopError {
///     #[error("there is no article {0}")]
///     NoSuchArticle(u64),
///     #[error("it is sold out")]
///     SoldOut,
///     #[error("this voucher is not valid: {reason}")]
///     Voucher { reason: String },
///     #[error(transparent)]
///     Worker(#[from] Failure),
/// }
///
/// forkpool::response_error!(ShopError {
///     Worker(Failure),
///     NoSuchArticle => NOT_FOUND,
///     _ => UNPROCESSABLE_ENTITY,
/// });
///
/// # use actix_web::ResponseError;
/// assert_eq!(ShopError::NoSuchArticle(7).status_code(), 404);
/// assert_eq!(ShopError::SoldOut.error_response().status(), 422);
/// assert_eq!(ShopError::from(Failure::task("a detail")).status_code(), 500);
/// ```
///
/// # JSON
///
/// With `json` in front, the line is in a JSON body: `{"error":"it is sold out"}`.
///
/// ```
/// # use forkpool::prelude::*;
/// # #[derive(Debug, thiserror::Error)]
/// # enum ShopError {
/// #     #[error("there is no article {0}")]
/// #     NoSuchArticle(u64),
/// #     #[error("it is sold out")]
/// #     SoldOut,
/// #     #[error("it is gone")]
/// #     Gone,
/// #     #[error(transparent)]
/// #     Worker(#[from] Failure),
/// # }
/// forkpool::response_error!(json ShopError { Worker(Failure), NoSuchArticle | Gone => NOT_FOUND, SoldOut => CONFLICT });
/// ```
///
/// For any other body, implement `ResponseError` by hand with [`web::status`](crate::web::status) and
/// [`web::response`](crate::web::response) for the variant that holds the failure.
#[macro_export]
macro_rules! response_error {
    (json $error:ty { $($entries:tt)+ }) => {
        $crate::__response_error!($error, json_response, json_text, $($entries)+);
    };
    ($error:ty { $($entries:tt)+ }) => {
        $crate::__response_error!($error, response, plain_text, $($entries)+);
    };
}

/// Implements `ResponseError` with these functions for the failure and for other errors.
#[doc(hidden)]
#[macro_export]
macro_rules! __response_error {
    (
        $error:ty, $response:ident, $own:ident,
        $worker:ident(Failure) $(, $($variant:tt)|+ => $status:ident)* $(,)?
    ) => {
        impl $crate::web::__private::ResponseError for $error {
            fn status_code(&self) -> $crate::web::__private::StatusCode {
                match self {
                    Self::$worker(failure) => $crate::web::status(failure),
                    $($($crate::__variant!($variant))|+ => {
                        $crate::web::__private::StatusCode::$status
                    })*
                }
            }

            fn error_response(&self) -> $crate::web::__private::HttpResponse {
                match self {
                    Self::$worker(failure) => $crate::web::$response(failure),
                    #[allow(unreachable_patterns, reason = "there may be no other variant")]
                    own => {
                        let status = $crate::web::__private::ResponseError::status_code(own);
                        $crate::web::__private::$own(status, &::std::string::ToString::to_string(own))
                    }
                }
            }
        }
    };
}

/// The pattern of one variant, or of all.
#[doc(hidden)]
#[macro_export]
macro_rules! __variant {
    (_) => {
        _
    };
    ($variant:ident) => {
        Self::$variant { .. }
    };
}

/// What the macro expands to.
#[doc(hidden)]
pub mod __private {
    pub use actix_web::http::StatusCode;
    use actix_web::http::header::ContentType;
    pub use actix_web::{HttpResponse, ResponseError};

    /// Makes a response with a line of text.
    pub fn plain_text(status: StatusCode, line: &str) -> HttpResponse {
        HttpResponse::build(status).content_type(ContentType::plaintext()).body(line.to_owned())
    }

    /// Makes a response with a line in an object.
    pub fn json_text(status: StatusCode, line: &str) -> HttpResponse {
        HttpResponse::build(status).json(serde_json::json!({ "error": line }))
    }
}
