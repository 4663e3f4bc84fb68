//! What lies below a node's upper object, or holds it beside its names: the parts
//! in lower layers, and the entry of the inode index.

use std::path::Path;
use std::sync::Arc;

use crate::hard_links::Indexed;

/// A place in a lower layer.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) layer: u16,
    pub(crate) path: Arc<Path>,
}

/// What a node has beside its upper object; most have nothing.
#[derive(Debug, Default)]
pub(crate) struct Below(Option<Box<Beside>>);

#[derive(Debug, Default)]
struct Beside {
    places: Vec<Place>,
    indexed: Option<Indexed>,
}

impl Below {
    pub(crate) fn of(places: Vec<Place>) -> Self {
        let mut below = Self::default();
        below.set_places(places);
        below
    }

    /// For a directory its merged lower parts, topmost first; for a metacopy
    /// first the file with its data, then, if it lies in a lower layer, the
    /// metacopy itself. A file not in the upper layer with none of them is the
    /// lower object that its name leads to.
    pub(crate) fn places(&self) -> &[Place] {
        self.0.as_ref().map_or(&[], |beside| &beside.places)
    }

    pub(crate) fn set_places(&mut self, places: Vec<Place>) {
        if self.0.is_some() || !places.is_empty() {
            self.0.get_or_insert_default().places = places;
        }
    }

    /// The entry of the inode index that the upper object is.
    pub(crate) fn indexed(&self) -> Option<&Indexed> {
        self.0.as_ref()?.indexed.as_ref()
    }

    pub(crate) fn indexed_mut(&mut self) -> Option<&mut Indexed> {
        self.0.as_mut()?.indexed.as_mut()
    }

    /// Itself, in the least room.
    pub(crate) fn or_nothing(self) -> Self {
        Self(self.0.filter(|beside| !beside.places.is_empty() || beside.indexed.is_some()))
    }

    pub(crate) fn set_indexed(&mut self, indexed: Indexed) {
        self.0.get_or_insert_default().indexed = Some(indexed);
    }
}
