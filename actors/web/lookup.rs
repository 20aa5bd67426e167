//! Finds a pool in the data of an application.

use std::any::type_name;

use actix_web::error::ErrorInternalServerError;
use actix_web::{Error, HttpRequest, web};

use crate::actors::api::pool_handle::PoolHandle;
use crate::actors::telemetry::teller;
use crate::actors::worker_api::worker::Worker;

/// Returns the pool from the application's data, where it is as itself or in `web::Data`.
///
/// # Errors
///
/// The response 500, which names nothing. The log says what is missing.
pub(super) fn pool_of<W: Worker>(request: &HttpRequest) -> Result<PoolHandle<W>, Error> {
    let shared = || request.app_data::<web::Data<PoolHandle<W>>>().map(web::Data::get_ref);
    if let Some(pool) = request.app_data::<PoolHandle<W>>().or_else(shared) {
        return Ok(pool.clone());
    }
    let handler = request.match_pattern().unwrap_or_else(|| request.path().to_owned());
    teller::tell(move || {
        let worker = type_name::<W>();
        tracing::error!(target: "forkpool", worker, handler,
            "a handler finds no pool: add .app_data(pool.clone()) to the App, where pool is a PoolHandle<{worker}>");
    });
    Err(ErrorInternalServerError("the service is not set up correctly; its log says what is missing"))
}
