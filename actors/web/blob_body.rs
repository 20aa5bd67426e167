//! A request body that goes where workers read it.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use actix_web::body::BodyStream;
use actix_web::dev::Payload;
use actix_web::http::Version;
use actix_web::{Error, FromRequest, HttpRequest, web};

use super::body_pieces::BodyPieces;
use super::lookup::pool_of;
use super::upload::{Upload, announced};
use super::upload_error::UploadError;
use crate::actors::worker_api::worker::Worker;
use crate::blob::Blob;

/// Most bytes of a body that are read after its upload has failed (64 KiB).
const DRAINED: usize = 64 << 10;

/// What a [`BlobBody`] may be; give it to `App::app_data`, as itself or in `web::Data`.
///
/// ```no_run
/// use actix_web::App;
/// use forkpool::web::BlobConfig;
///
/// let app = App::new().app_data(BlobConfig::default().limit(20 << 20));
/// ```
#[derive(Clone, Debug)]
pub struct BlobConfig {
    limit: usize,
}

impl BlobConfig {
    /// Sets the most bytes that a body may have (default 16 MiB). A longer one is answered 413.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    fn of(request: &HttpRequest) -> Self {
        let shared = || request.app_data::<web::Data<Self>>().map(web::Data::get_ref);
        request.app_data::<Self>().or_else(shared).cloned().unwrap_or_default()
    }
}

/// 16 MiB.
impl Default for BlobConfig {
    fn default() -> Self {
        BlobConfig { limit: 16 << 20 }
    }
}

/// An extractor that reads the whole body of a request into the memory of a pool, where the workers of `W` read it in
/// place: without a `Vec` and without a file.
///
/// It finds the [`PoolHandle<W>`](crate::PoolHandle) in the application's data, as itself or in `web::Data`. Memory is
/// taken as bytes arrive and not as they are announced, as by [`PoolHandle::blob_up_to`](crate::PoolHandle::blob_up_to),
/// and is free as soon as the upload fails, its client leaves, or the blob is dropped. The bytes are those that the client
/// has sent: a body with a `Content-Encoding` is not decoded.
///
/// ```no_run
/// # use actix::prelude::*;
/// # use forkpool::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Message, Serialize, Deserialize)]
/// # #[rtype(result = "Result<Blob, Failure>")]
/// # struct Shrink(Blob);
/// # async fn thumbnail<Painter: Worker + forkpool::Accepts<Shrink>>(
/// #     pool: actix_web::web::Data<PoolHandle<Painter>>, body: forkpool::web::BlobBody<Painter>,
/// # ) -> Result<actix_web::HttpResponse, Failure> {
/// // body: forkpool::web::BlobBody<Painter>
/// let small = pool.send(Shrink(body.into_inner())).await?;
/// Ok(actix_web::HttpResponse::Ok().content_type("image/webp").body(forkpool::web::body(small)))
/// # }
/// ```
///
/// # Errors
///
/// An [`UploadError`]: 413 if the body has more bytes than [`BlobConfig::limit`], without reading any if that was
/// announced; 503 with `Retry-After` if the pool's [`blob_memory`](crate::PoolBuilder::blob_memory) is used up. All close
/// the connection. It is 500 if there is no such pool in the application's data; the log says so.
pub struct BlobBody<W> {
    blob: Blob,
    worker: PhantomData<fn() -> W>,
}

impl<W> BlobBody<W> {
    /// Returns the bytes, to be put into a message.
    pub fn into_inner(self) -> Blob {
        self.blob
    }
}

impl<W> std::ops::Deref for BlobBody<W> {
    type Target = Blob;

    fn deref(&self) -> &Blob {
        &self.blob
    }
}

/// Shows the number of bytes, not the bytes.
impl<W> std::fmt::Debug for BlobBody<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BlobBody").field(&self.blob).finish()
    }
}

impl<W: Worker> FromRequest for BlobBody<W> {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let pieces = BodyPieces::of(BodyStream::new(payload.take()));
        let begun = begin::<W>(request);
        let is_endless = is_endless(request);
        Box::pin(async move {
            let received = match begun {
                Ok(upload) => receive(upload, pieces, is_endless).await.map_err(Error::from),
                Err(error) => {
                    leave(pieces, is_endless);
                    Err(error)
                }
            };
            received.map(|blob| BlobBody { blob, worker: PhantomData })
        })
    }
}

/// Prepares the upload, unless the client announces too many bytes.
fn begin<W: Worker>(request: &HttpRequest) -> Result<Upload, Error> {
    let pool = pool_of::<W>(request)?;
    let limit = BlobConfig::of(request).limit;
    match announced(request) {
        Some(bytes) if bytes > limit as u64 => Err(UploadError::TooLarge { limit }.into()),
        // It is not above the limit, so the cast loses nothing.
        Some(bytes) => Ok(Upload::to(&pool, bytes as usize)),
        None => Ok(Upload::to(&pool, limit)),
    }
}

async fn receive(
    mut upload: Upload,
    mut pieces: BodyPieces<BodyStream<Payload>>,
    is_endless: bool,
) -> Result<Blob, UploadError> {
    while let Some(piece) = pieces.next().await {
        if let Err(error) = upload.append(&piece.map_err(UploadError::Interrupted)?) {
            leave(pieces, is_endless);
            return Err(error);
        }
    }
    Ok(upload.finish())
}

/// Whether actix-web would read the rest of the body without a bound: it is chunked.
fn is_endless(request: &HttpRequest) -> bool {
    request.version() < Version::HTTP_2 && announced(request).is_none()
}

fn leave(pieces: BodyPieces<BodyStream<Payload>>, is_endless: bool) {
    if is_endless {
        pieces.keep_unread(DRAINED);
    }
}
