//! Tally of the rows of `status`: a line with the counts, and the commands to run next.

use crate::image::reference::Reference;
use crate::plan::status::{Row, Selection, State, names};

/// Counts the shown rows.
pub(super) struct Tally<'a> {
    selection: &'a Selection,
    /// For each name of the selection: whether a row was seen for this name.
    seen: Vec<bool>,
    well: usize,
    odd: [usize; State::ODD.len()],
    /// For each odd state, the arguments that remove the first row which can be removed.
    removals: [Option<String>; State::ODD.len()],
    /// Notes about entries that the engine cannot parse.
    pub notes: Vec<String>,
}

/// The position of a state in [`State::ODD`].
fn place(state: State) -> Option<usize> {
    State::ODD.iter().position(|odd| *odd == state)
}

impl<'a> Tally<'a> {
    pub fn new(selection: &'a Selection) -> Self {
        Self {
            selection,
            seen: vec![false; selection.names.len()],
            well: 0,
            odd: [0; State::ODD.len()],
            removals: Default::default(),
            notes: Vec::new(),
        }
    }

    /// Counts a row, and returns whether it is shown.
    pub fn see(&mut self, row: &Row) -> bool {
        for (name, seen) in self.selection.names.iter().zip(&mut self.seen) {
            *seen |= names(name, row);
        }
        if !self.selection.has(row) {
            return false;
        }
        match place(row.state) {
            Some(state) => {
                self.odd[state] += 1;
                let removal = &mut self.removals[state];
                *removal = removal.take().or_else(|| row.removal());
            }
            None => self.well += 1,
        }
        self.notes.extend(row.note.clone());
        true
    }

    pub fn rows(&self) -> usize {
        self.well + self.odd.iter().sum::<usize>()
    }

    fn count(&self, state: State) -> usize {
        place(state).map_or(0, |place| self.odd[place])
    }

    /// The command that removes the first row of this state. `None` if no command can.
    fn to_remove(&self, wanted: State, told: &str) -> Option<String> {
        let removal = self.removals[place(wanted)?].as_ref()?;
        Some(format!("{told}: digestfix apply {removal}"))
    }

    pub fn has_problem(&self) -> bool {
        let mut problems = State::ODD.iter().filter(|state| state.is_problem());
        problems.any(|state| self.count(*state) > 0) || self.names_are_lost()
    }

    /// Whether the host has images, but no image has a name.
    fn names_are_lost(&self) -> bool {
        self.rows() > 0 && self.count(State::Nameless) == self.rows()
    }

    /// The selected names that match no row.
    pub fn unknown(&self) -> Vec<String> {
        let names = self.selection.names.iter().zip(&self.seen);
        names
            .filter(|(_, seen)| !**seen)
            .map(|(name, _)| Reference::familiar(name))
            .collect()
    }

    pub fn total(&self) -> String {
        let mut parts = Vec::new();
        for state in State::ODD {
            let count = self.count(state);
            let what = match state {
                State::Ok => continue,
                State::NoDigest => "no digest",
                State::DigestIsImageId => "image ID as digest",
                State::MadeUp => "made-up digest",
                State::ImageMissing => "image missing",
                State::Unparsable => "not readable",
                State::RunsOnly => "runs only",
                State::Nameless => "no name",
            };
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if self.well > 0 {
            parts.push(format!("{} ok", self.well));
        }
        match self.rows() {
            0 if self.selection.problems => "No problem.".to_owned(),
            0 => "No image.".to_owned(),
            rows => format!("{rows} in all: {}", parts.join(", ")),
        }
    }

    /// The command to run next, for each kind of problem that a command can solve.
    pub fn next(&self) -> impl Iterator<Item = String> {
        let next = [
            (
                State::NoDigest,
                "To give an image its digest back: digestfix apply NAME:TAG@sha256:HEX",
            ),
            (
                State::DigestIsImageId,
                "To replace an image ID by the right digest: digestfix apply --replace \
                 NAME:TAG@sha256:HEX",
            ),
            (
                State::MadeUp,
                "To add the registry's digest: digestfix apply NAME:TAG@sha256:HEX",
            ),
        ];
        let next = next.map(|(state, next)| (self.count(state) > 0).then_some(next));
        let removals = [
            (
                State::ImageMissing,
                "To remove a name whose image is not on this host",
            ),
            (
                State::Unparsable,
                "To remove an entry that Docker does not understand",
            ),
        ];
        let removals = removals.map(|(state, told)| self.to_remove(state, told));
        let lost = self.names_are_lost().then_some(
            "No image on this host has a name: the reference store is empty, for example after a \
             reset. To get the names back from a former repositories.json: digestfix apply --from \
             OLD --tags",
        );
        let one = (self.count(State::Nameless) > 0 && lost.is_none())
            .then_some("To give an image a name: digestfix apply NAME@sha256:HEX=IMAGE-ID");
        let next = next.into_iter().flatten().map(str::to_owned);
        let of_all = lost.into_iter().chain(one).map(str::to_owned);
        next.chain(removals.into_iter().flatten()).chain(of_all)
    }
}
