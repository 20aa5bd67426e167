//! A request body that goes where workers read it.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use actix_web::body::BodyStream;
use actix_web::dev::Payload;
use actix_web::http::Version;
use actix_web::{Error, FromRequest, HttpRequest, web};

use super::body_pieces::BodyPieces;
use super::lookup::pool_of;
use super::pace::Pace;
use super::upload::{Upload, announced};
use super::upload_error::UploadError;
use crate::actors::worker_api::worker::Worker;
use crate::blob::Blob;

/// Most bytes of a body that are read after its upload has failed (64 KiB).
const DRAINED: usize = 64 << 10;

/// What a [`BlobBody`] may be; give it to `App::app_data`, as itself or in `web::Data`.
///
/// ```no_run
/// use std::time::Duration;
///
/// use actix_web::App;
/// use forkpool::web::BlobConfig;
///
/// let config = BlobConfig::default().limit(20 << 20).idle_timeout(Duration::from_secs(10));
/// let app = App::new().app_data(config);
/// ```
#[derive(Clone, Debug)]
pub struct BlobConfig {
    limit: usize,
    pub(super) idle_timeout: Option<Duration>,
}

impl BlobConfig {
    /// Sets the most bytes that a body may have (default 16 MiB). A longer one is answered 413. It does not hold for the
    /// fields of forms, which have limits of their own.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Sets the longest time for which no byte of an upload may arrive (default 30 s; `None` is no limit). It holds for
    /// bodies, and for the fields of forms while they are read. An upload that stands still for longer is answered 408, its
    /// connection is closed, and its memory is free.
    ///
    /// The time of an upload as a whole is bounded by the deadline of its request: see
    /// [`Config::deadline_header`](super::Config::deadline_header) and [`Config::most`](super::Config::most). Without one, a
    /// client that sends a byte now and then keeps the memory of what it has sent.
    #[must_use]
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = limit.into();
        self
    }

    pub(super) fn of(request: &HttpRequest) -> Self {
        let shared = || request.app_data::<web::Data<Self>>().map(web::Data::get_ref);
        request.app_data::<Self>().or_else(shared).cloned().unwrap_or_default()
    }
}

/// 16 MiB, and 30 s without a byte.
impl Default for BlobConfig {
    fn default() -> Self {
        BlobConfig { limit: 16 << 20, idle_timeout: Some(Duration::from_secs(30)) }
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
/// announced; 503 with `Retry-After` if the pool's [`blob_memory`](crate::PoolBuilder::blob_memory) is used up; 408 if no
/// byte has arrived for [`BlobConfig::idle_timeout`], or the body is not complete at the deadline of its request (see
/// [`Config::deadline_header`](super::Config::deadline_header)). All close the connection. It is 400 if the header of the
/// deadline says no time, and 500 if there is no such pool in the application's data; the log says so.
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
    let (pace, limit) = (Pace::of(request)?, BlobConfig::of(request).limit);
    match announced(request) {
        Some(bytes) if bytes > limit as u64 => Err(UploadError::TooLarge { limit }.into()),
        // It is not above the limit, so the cast loses nothing.
        Some(bytes) => Ok(Upload::to(&pool, bytes as usize, pace)),
        None => Ok(Upload::to(&pool, limit, pace)),
    }
}

async fn receive(
    mut upload: Upload,
    mut pieces: BodyPieces<BodyStream<Payload>>,
    is_endless: bool,
) -> Result<Blob, UploadError> {
    loop {
        let taken = match upload.next(&mut pieces).await {
            Ok(Some(piece)) => upload.append(&piece.map_err(UploadError::Interrupted)?),
            Ok(None) => return Ok(upload.finish()),
            Err(too_slow) => Err(too_slow),
        };
        if let Err(error) = taken {
            leave(pieces, is_endless);
            return Err(error);
        }
    }
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
