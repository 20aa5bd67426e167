//! The serialization of failures, also between versions.
//!
//! The line that the writer prints always comes first, so that a reader that does not understand the rest has at least
//! the line. In human-readable formats (JSON) the details follow as named fields. Binary formats (postcard) are not
//! self-describing; there the details are a byte string of their own, which a reader can skip without understanding it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Details, Failure, FailureKind, bounded_chain};
use crate::escape;

/// What is written in human-readable formats.
#[derive(Serialize)]
struct TextForm<'a> {
    line: String,
    #[serde(flatten)]
    details: &'a Details,
}

/// What is read from human-readable formats.
#[derive(Deserialize)]
#[serde(untagged)]
enum ParsedText {
    Known(Box<KnownFields>),
    /// A field has a value that this version does not know.
    Unknown {
        line: String,
    },
}

#[derive(Deserialize)]
struct KnownFields {
    #[serde(default)]
    line: String,
    #[serde(flatten)]
    details: Details,
}

/// What is written in binary formats: the line, the kind's name, and the details encoded separately.
type BinaryForm = (String, FailureKind, Vec<u8>);

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = self.to_string();
        if serializer.is_human_readable() {
            return TextForm { line, details: &self.0 }.serialize(serializer);
        }
        let details = postcard::to_stdvec(&*self.0).map_err(serde::ser::Error::custom)?;
        (line, self.kind(), details).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let _level = bounded_chain::DepthGuard::enter()?;
        if deserializer.is_human_readable() {
            return Ok(match ParsedText::deserialize(deserializer)? {
                ParsedText::Known(known) => Failure::read(known.line, Some(known.details)),
                ParsedText::Unknown { line } => Failure::read(line, None),
            });
        }
        let (line, _, details) = BinaryForm::deserialize(deserializer)?;
        // Fields that a newer version added follow the known ones and are ignored.
        let details = postcard::take_from_bytes::<Details>(&details).ok().map(|(details, _)| details);
        Ok(Failure::read(line, details))
    }
}

impl Failure {
    /// Creates a failure that was read. Without details that this version understands, it is of the kind `Other`.
    fn read(line: String, details: Option<Details>) -> Self {
        let line = escape::one_line(&line).into_owned();
        match details {
            // A failure of an unknown kind prints the line of its writer, whose version knows the kind.
            Some(details) if details.kind == FailureKind::Other => {
                Failure(std::sync::Arc::new(Details { text: line, ..details }))
            }
            Some(details) => Failure(std::sync::Arc::new(details)),
            None => Failure::of(FailureKind::Other, line),
        }
    }
}
