//! The numbers of messages, which a client and the program of its workers may count differently.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Translates a client's numbers of messages to those of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<Vec<u32>>", into = "Option<Vec<u32>>")]
pub(crate) struct Numbering {
    /// This program's number for each of the client's; `None` if both count alike.
    own: Option<Arc<[u32]>>,
}

impl From<Option<Vec<u32>>> for Numbering {
    fn from(own: Option<Vec<u32>>) -> Self {
        Numbering { own: own.map(Arc::from) }
    }
}

impl From<Numbering> for Option<Vec<u32>> {
    fn from(numbering: Numbering) -> Self {
        numbering.own.map(|own| own.to_vec())
    }
}

impl Numbering {
    /// Makes a translation from this program's number for each of the client's messages, in the client's order.
    pub(crate) fn new(own: Vec<u32>) -> Self {
        let is_alike = (0..).zip(&own).all(|(their, own)| their == *own);
        Numbering { own: (!is_alike).then(|| own.into()) }
    }

    /// Returns this program's number of a message. A number beyond the client's interface is no message here either.
    #[inline]
    pub(crate) fn translate(&self, theirs: u32) -> u32 {
        let Some(own) = &self.own else { return theirs };
        let own = usize::try_from(theirs).ok().and_then(|theirs| own.get(theirs));
        own.copied().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S11
    #[test]
    fn numbers_are_translated_where_both_sides_count_differently() {
        assert_eq!(Numbering::new(vec![0, 1]), Numbering::default(), "the first of three messages");
        assert_eq!(Numbering::default().translate(7), 7);
        let numbering = Numbering::new(vec![2, 0]);
        assert_eq!([0, 1, 2, u32::MAX].map(|number| numbering.translate(number)), [2, 0, u32::MAX, u32::MAX]);
    }
}
