//! Bytes on their way from a client into the memory of a pool.

use std::future::poll_fn;
use std::io::{ErrorKind, Write};
use std::task::Poll;

use actix_web::HttpRequest;
use actix_web::body::MessageBody;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::Bytes;

use super::body_pieces::BodyPieces;
use super::pace::Pace;
use super::upload_error::UploadError;
use crate::actors::api::pool_handle::PoolHandle;
use crate::actors::worker_api::worker::Worker;
use crate::blob::{Blob, BlobMut};
use crate::failure::{Failure, FailureKind};

/// An upload in the middle.
pub(super) struct Upload {
    blob: BlobMut,
    /// The pool that failures name.
    pool: String,
    pace: Pace,
}

impl Upload {
    /// An upload of up to `limit` bytes. It takes memory as bytes arrive.
    pub(super) fn to<W: Worker>(pool: &PoolHandle<W>, limit: usize, pace: Pace) -> Self {
        Upload { blob: pool.blob_up_to(limit), pool: pool.name().to_owned(), pace }
    }

    /// Returns the next piece, or `None` at the end of the body. It must not be called again after that.
    ///
    /// # Errors
    ///
    /// [`UploadError::Stalled`] and [`UploadError::TooSlow`] where the time for it is over. An error of the body itself is
    /// in the piece.
    pub(super) async fn next<B: MessageBody + 'static>(
        &mut self,
        pieces: &mut BodyPieces<B>,
    ) -> Result<Option<Result<Bytes, B::Error>>, UploadError> {
        poll_fn(|cx| match pieces.poll_next(cx) {
            Poll::Ready(Some(Ok(piece))) => Poll::Ready(self.pace.note_piece().map(|()| Some(Ok(piece)))),
            Poll::Ready(end) => Poll::Ready(Ok(end)),
            Poll::Pending => self.pace.poll_end(cx).map(Err),
        })
        .await
    }

    /// Appends a piece.
    ///
    /// # Errors
    ///
    /// [`UploadError::TooLarge`] beyond the limit, and [`UploadError::Failed`] where there is no memory.
    pub(super) fn append(&mut self, piece: &[u8]) -> Result<(), UploadError> {
        let limit = self.blob.capacity();
        if piece.len() > limit - self.blob.len() {
            return Err(UploadError::TooLarge { limit });
        }
        self.blob.write_all(piece).map_err(|error| UploadError::Failed(self.failure(error)))
    }

    fn failure(&self, error: std::io::Error) -> Failure {
        debug_assert_ne!(error.kind(), ErrorKind::WriteZero, "there is room for the piece");
        let of_system = |error: std::io::Error| {
            Failure::of(FailureKind::Overloaded, error.to_string()).in_pool(&self.pool)
        };
        error.downcast().unwrap_or_else(of_system)
    }

    pub(super) fn finish(self) -> Blob {
        self.blob.freeze()
    }
}

/// Returns the number of bytes that the client has announced for the whole body. actix-web refuses a header that is no
/// number.
pub(super) fn announced(request: &HttpRequest) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
