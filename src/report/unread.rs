//! References that are in the file, but not in the running engine, because the engine has
//! not read the file since the file changed.

use std::collections::BTreeSet;

use crate::image::reference::Reference;
use crate::report::Report;

impl Report {
    /// Sets the references that are in the file, but that the running engine has not
    /// read.
    pub fn unread(&mut self, references: &BTreeSet<Reference>) {
        let names = references.iter().map(Reference::familiar);
        self.document.unread = Some(names.collect()).filter(|names: &Vec<_>| !names.is_empty());
    }

    /// Whether there are references that the running engine has not read.
    pub fn has_unread(&self) -> bool {
        self.document.unread.is_some()
    }

    pub(super) fn is_unread(&self, reference: &Reference) -> bool {
        let unread = self.document.unread.as_ref();
        unread.is_some_and(|names| names.contains(&reference.familiar()))
    }
}
