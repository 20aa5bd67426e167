//! A blob as the body of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

use crate::blob::Blob;

/// Bytes that are copied at once (64 KiB).
const PIECE: usize = 64 << 10;

/// Makes a response's body of a blob, without a copy of the whole.
///
/// Its size is known, so the response has a `Content-Length`. Pieces of 64 KiB are copied as the client reads. The blob is
/// freed when the last piece is copied or when actix-web drops the body, because the client has left. A client that
/// neither reads nor leaves keeps the blob.
///
/// ```no_run
/// use actix_web::HttpResponse;
/// use forkpool::prelude::*;
///
/// fn picture(picture: Blob) -> HttpResponse {
///     HttpResponse::Ok().content_type("image/webp").body(forkpool::web::body(picture))
/// }
/// ```
pub fn body(blob: Blob) -> impl MessageBody<Error = Infallible> + Send + Unpin + 'static {
    BlobPieces { length: blob.len() as u64, at: 0, blob }
}

struct BlobPieces {
    /// The bytes; an empty blob once all are copied.
    blob: Blob,
    length: u64,
    at: usize,
}

impl MessageBody for BlobPieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.length)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let mut piece = vec![0; PIECE.min(self.blob.len().saturating_sub(self.at))];
        self.at += self.blob.read_at(self.at, &mut piece);
        if self.at >= self.blob.len() {
            self.blob = Blob::default();
        }
        Poll::Ready((!piece.is_empty()).then(|| Ok(piece.into())))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn the_pieces_of_a_blob_are_its_bytes_and_the_last_one_frees_it() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut body = BlobPieces { blob: bytes.clone().into(), length: length as u64, at: 0 };
            assert_eq!(body.size(), BodySize::Sized(length as u64));
            let (mut sent, mut most) = (Vec::new(), 0);
            while let Poll::Ready(Some(Ok(piece))) =
                Pin::new(&mut body).poll_next(&mut Context::from_waker(Waker::noop()))
            {
                most = most.max(piece.len());
                sent.extend_from_slice(&piece);
                assert_eq!(body.blob.is_empty(), sent.len() == length, "{length}");
            }
            assert!(sent == bytes && most <= PIECE, "{length} bytes in pieces of up to {most}");
        }
    }
}
