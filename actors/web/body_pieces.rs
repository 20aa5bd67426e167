//! The pieces of a body as they arrive.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::rt;
use actix_web::web::Bytes;

/// How long the rest of a body is kept unread (1 s).
const KEPT: Duration = Duration::from_secs(1);

/// Reads a body piece by piece.
pub(super) struct BodyPieces<B>(Pin<Box<B>>);

impl<B: MessageBody + 'static> BodyPieces<B> {
    pub(super) fn of(body: B) -> Self {
        BodyPieces(Box::pin(body))
    }

    /// Is ready with the next piece, or `None` at the end. It must not be called again after that.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        self.0.as_mut().poll_next(cx)
    }

    /// Keeps the rest of a body that is not wanted, so that its connection is closed and not read to the end.
    ///
    /// actix-web reads a chunked body to its end, however long, once its stream is dropped, and a client could send for
    /// ever. While the stream is there, actix-web closes the connection behind the response. So the stream is kept until
    /// the response is out. Up to `drained` bytes are read meanwhile: they have arrived, and the response of a client that
    /// is reset while it sends may be lost.
    pub(super) fn keep_unread(mut self, drained: usize) {
        rt::spawn(rt::time::timeout(KEPT, async move {
            let mut read = 0;
            while read < drained
                && let Some(Ok(piece)) = poll_fn(|cx| self.poll_next(cx)).await
            {
                read += piece.len();
            }
            std::future::pending::<()>().await;
        }));
    }
}
