//! How a failure travels and is stored, also between versions.
//!
//! Whatever else is written, the line that the writer prints comes first: a reader that cannot make sense of the rest
//! still has it. In formats for people the dossier's fields stand beside it by name; in binary ones, which do not say
//! what is what, they are bytes of their own, so that a reader need not understand them to read on behind them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Details, Failure, FailureKind, bounded_chain};

/// In formats for people.
#[derive(Serialize)]
struct Written<'a> {
    line: String,
    #[serde(flatten)]
    details: &'a Details,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Read {
    Known(Box<Known>),
    /// Something in it is of a version that we are not.
    Unknown {
        line: String,
    },
}

#[derive(Deserialize)]
struct Known {
    #[serde(default)]
    line: String,
    #[serde(flatten)]
    details: Details,
}

/// In binary formats: the line, the kind's name, and the dossier encoded on its own.
type Packed = (String, FailureKind, Vec<u8>);

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = self.to_string();
        if serializer.is_human_readable() {
            return Written { line, details: &self.0 }.serialize(serializer);
        }
        let details = postcard::to_stdvec(&*self.0).map_err(serde::ser::Error::custom)?;
        (line, self.kind(), details).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let _level = bounded_chain::DepthGuard::enter()?;
        if deserializer.is_human_readable() {
            return Ok(match Read::deserialize(deserializer)? {
                Read::Known(known) => Failure::read(known.line, Some(known.details)),
                Read::Unknown { line } => Failure::read(line, None),
            });
        }
        let (line, _, details) = Packed::deserialize(deserializer)?;
        // Fields that a newer version added stand behind those we know.
        let details = postcard::take_from_bytes::<Details>(&details).ok().map(|(details, _)| details);
        Ok(Failure::read(line, details))
    }
}

impl Failure {
    fn read(line: String, details: Option<Details>) -> Self {
        let line = line.replace(['\n', '\r'], " ");
        match details {
            // A kind that is unknown here prints as it did where it was known.
            Some(details) if details.kind == FailureKind::Other => {
                Failure(std::sync::Arc::new(Details { text: line, ..details }))
            }
            Some(details) => Failure(std::sync::Arc::new(details)),
            None => Failure::of(FailureKind::Other, line),
        }
    }
}
