//! The message of a call on its way into a frame.

use crate::actors::scheduler::Scheduler;
use crate::actors::transport::blobs;
use crate::actors::transport::blobs::Encoded;
use crate::blob::Blob;
use crate::wire::frame::{Limits, PayloadError};

/// A message that can be encoded.
pub(crate) trait EncodeMessage {
    /// Appends the encoded message to `out`.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] where the message cannot be encoded or exceeds the limits; what was appended is of no use then.
    fn encode(&self, out: &mut Vec<u8>, limits: Limits) -> Result<(), PayloadError>;
}

/// The message of a call: a value that is encoded where it is needed, or what was encoded before.
pub(crate) enum Payload<'a> {
    Value(&'a dyn EncodeMessage),
    Encoded(Encoded),
    /// A message that could not be encoded.
    Invalid(PayloadError),
}

impl Payload<'_> {
    /// Appends the encoded message to `out` and returns its large blobs, in the order of their numbers. The message
    /// may be as large as fits beside this many bytes of baggage.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] where the message cannot be encoded or exceeds the limits; no blobs are lent then.
    pub(crate) fn append(
        self,
        scheduler: &Scheduler,
        baggage: usize,
        out: &mut Vec<u8>,
    ) -> Result<Vec<Blob>, PayloadError> {
        match self {
            Payload::Value(message) => {
                let limits = scheduler.message_limits(baggage);
                blobs::encode(scheduler.blobs.as_ref(), out, |out| message.encode(out, limits))
            }
            Payload::Encoded(Encoded { bytes, blobs }) => {
                out.extend_from_slice(&bytes);
                Ok(blobs)
            }
            Payload::Invalid(problem) => Err(problem),
        }
    }

    /// Returns the encoded message.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Self::append).
    pub(crate) fn into_encoded(self, scheduler: &Scheduler, baggage: usize) -> Result<Encoded, PayloadError> {
        if let Payload::Encoded(encoded) = self {
            return Ok(encoded);
        }
        let mut bytes = Vec::new();
        let blobs = self.append(scheduler, baggage, &mut bytes)?;
        Ok(Encoded { bytes, blobs })
    }
}

impl From<Result<Encoded, PayloadError>> for Payload<'_> {
    fn from(message: Result<Encoded, PayloadError>) -> Self {
        message.map_or_else(Payload::Invalid, Payload::Encoded)
    }
}
