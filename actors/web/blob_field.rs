//! A field of a multipart form that goes where workers read it.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use actix_multipart::form::{FieldReader, Limits};
use actix_multipart::{Field, MultipartError};
use actix_web::body::BodyStream;
use actix_web::error::PayloadError;
use actix_web::mime::Mime;
use actix_web::{Error, HttpRequest};

use super::body_pieces::BodyPieces;
use super::lookup::pool_of;
use super::pace::Pace;
use super::upload::{Upload, announced};
use crate::actors::worker_api::worker::Worker;
use crate::blob::Blob;

/// A field of a multipart form, read into the memory of a pool, where the workers of `W` read it in place: without a `Vec`
/// and without a file.
///
/// It is bounded by its `#[multipart(limit = "…")]` and by
/// [`MultipartFormConfig::total_limit`](actix_multipart::form::MultipartFormConfig::total_limit) (default 50 MiB), and does
/// not count towards `memory_limit`. It finds its pool, and takes memory, as [`BlobBody`](super::BlobBody) does. Give
/// [`multipart_error`] to the form's configuration: without it actix-multipart answers by the status alone, without
/// `Retry-After`.
///
/// Its limits of time hold while it is read. actix-multipart itself waits for what comes between and behind the fields, and
/// for fields of other types, without a limit: a field that is complete keeps its memory until the form is, or its client
/// leaves.
///
/// ```ignore
/// use actix_multipart::form::{MultipartForm, MultipartFormConfig}; // with the feature `derive` of actix-multipart
/// use forkpool::web::BlobField;
///
/// #[derive(MultipartForm)]
/// struct Picture {
///     #[multipart(limit = "20 MiB")]
///     image: BlobField<Painter>,
/// }
///
/// async fn shrink(
///     pool: web::Data<PoolHandle<Painter>>,
///     form: MultipartForm<Picture>,
/// ) -> Result<HttpResponse, Failure> {
///     let small = pool.send(Shrink(form.into_inner().image.into_inner())).await?;
///     Ok(HttpResponse::Ok().content_type("image/webp").body(forkpool::web::body(small)))
/// }
///
/// let app = App::new()
///     .app_data(web::Data::new(pool.clone()))
///     .app_data(MultipartFormConfig::default().error_handler(forkpool::web::multipart_error));
/// ```
///
/// # Errors
///
/// A [`MultipartError::Field`] with an [`UploadError`](super::UploadError): 413 beyond a limit, 503 if the pool's
/// [`blob_memory`](crate::PoolBuilder::blob_memory) is used up, 408 if no byte of the field has arrived for
/// [`BlobConfig::idle_timeout`](super::BlobConfig::idle_timeout), or it is not complete at the deadline of its request. The
/// connection is closed, and the memory is free.
pub struct BlobField<W> {
    blob: Blob,
    file_name: Option<String>,
    content_type: Option<Mime>,
    worker: PhantomData<fn() -> W>,
}

impl<W> BlobField<W> {
    /// Returns the bytes, to be put into a message.
    pub fn into_inner(self) -> Blob {
        self.blob
    }

    /// Returns the name of the file as the client gives it. It may be anything, such as `../../etc/passwd`.
    pub fn file_name(&self) -> Option<&str> {
        self.file_name.as_deref()
    }

    /// Returns the `Content-Type` as the client gives it.
    pub fn content_type(&self) -> Option<&Mime> {
        self.content_type.as_ref()
    }
}

impl<W> std::ops::Deref for BlobField<W> {
    type Target = Blob;

    fn deref(&self) -> &Blob {
        &self.blob
    }
}

/// Shows the number of bytes, not the bytes.
impl<W> std::fmt::Debug for BlobField<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobField")
            .field("blob", &self.blob)
            .field("file_name", &self.file_name)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

impl<'t, W: Worker> FieldReader<'t> for BlobField<W> {
    type Future = Pin<Box<dyn Future<Output = Result<Self, MultipartError>> + 't>>;

    fn read_field(request: &'t HttpRequest, field: Field, limits: &'t mut Limits) -> Self::Future {
        Box::pin(async move {
            let name = field.name().unwrap_or_default().to_owned();
            let disposition = field.content_disposition();
            let file_name = disposition.and_then(|given| given.get_filename()).map(str::to_owned);
            let content_type = field.content_type().cloned();
            let pieces = BodyPieces::of(BodyStream::new(field));
            let upload = match begin::<W>(request, limits) {
                Ok(upload) => upload,
                Err(source) => {
                    pieces.keep_unread(0);
                    return Err(MultipartError::Field { name, source });
                }
            };
            let blob = receive(upload, pieces, limits, &name).await?;
            Ok(BlobField { blob, file_name, content_type, worker: PhantomData })
        })
    }
}

fn begin<W: Worker>(request: &HttpRequest, limits: &Limits) -> Result<Upload, Error> {
    let (pool, pace) = (pool_of::<W>(request)?, Pace::of(request)?);
    Ok(Upload::to(&pool, most_of(request, limits), pace))
}

/// The most bytes that the field may have.
fn most_of(request: &HttpRequest, limits: &Limits) -> usize {
    let announced = announced(request).and_then(|bytes| usize::try_from(bytes).ok());
    let bounds = [announced, limits.field_limit_remaining, Some(limits.total_limit_remaining)];
    bounds.into_iter().flatten().min().unwrap_or(usize::MAX)
}

async fn receive(
    mut upload: Upload,
    mut pieces: BodyPieces<BodyStream<Field>>,
    limits: &mut Limits,
    name: &str,
) -> Result<Blob, MultipartError> {
    loop {
        let taken = match upload.next(&mut pieces).await {
            Ok(Some(piece)) => {
                let piece = piece?;
                upload.append(&piece).map(|()| piece.len())
            }
            Ok(None) => return Ok(upload.finish()),
            Err(too_slow) => Err(too_slow),
        };
        match taken {
            // It is not in the form's memory.
            Ok(bytes) => limits.try_consume_limits(bytes, false)?,
            Err(error) => {
                // A field that is read to its end releases the body.
                pieces.keep_unread(0);
                return Err(MultipartError::Field { name: name.to_owned(), source: error.into() });
            }
        }
    }
}

/// Makes the responses to multipart forms that are refused; for
/// [`MultipartFormConfig::error_handler`](actix_multipart::form::MultipartFormConfig::error_handler).
///
/// The error of a field, such as an [`UploadError`](super::UploadError), answers with a response of its own, and a form beyond its limits is
/// answered 413. Without this, actix-multipart takes nothing but the status of the former, and answers the latter 400.
pub fn multipart_error(error: MultipartError, _: &HttpRequest) -> Error {
    match error {
        MultipartError::Field { source, .. } => source,
        MultipartError::Payload(PayloadError::Overflow) => PayloadError::Overflow.into(),
        other => other.into(),
    }
}
