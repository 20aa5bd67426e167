//! Placeholder.
use crate::failure::Failure;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
pub(super) fn status(_: &Failure) -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}
pub(super) fn response(failure: &Failure) -> HttpResponse {
    HttpResponse::build(status(failure)).insert_header(("retry-after", "1")).body("the service is busy")
}
