//! Tables for people.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::cli::Column;
use crate::plan::status::{Row, Rows, State};
use crate::report::text::{Text, Tone};

const GAP: usize = 2;

/// The indentation of a folded row's further lines, in columns.
const INDENT: usize = 4;

/// The number of digits to show of a digest or an image ID. This number of digits is
/// enough to tell two digests apart.
const DIGITS: usize = 12;

/// The least width of a shortened name, in columns. A shorter name would not be
/// recognizable.
pub(super) const LEAST_NAME: usize = 16;

const ALGORITHM: &str = "sha256:";

/// The options of `status` that concern its table.
#[derive(Debug, Clone)]
pub struct Shown {
    pub columns: Vec<Column>,
    /// Whether names, digests and image IDs are shown in full.
    pub whole: bool,
}

/// The table of `status`. The layout is computed after all rows were seen.
pub(super) struct Table<'a> {
    shown: &'a Shown,
    widths: Widths,
    /// The states in the rows that were seen.
    states: Vec<State>,
}

impl<'a> Table<'a> {
    pub fn new(shown: &'a Shown) -> Self {
        let mut widths = Widths::default();
        widths.take(&titles(shown));
        Self {
            shown,
            widths,
            states: Vec::new(),
        }
    }

    pub fn see(&mut self, row: &Row) {
        self.widths.take(&self.cells(row));
        if !self.states.contains(&row.state) {
            self.states.push(row.state);
        }
    }

    /// Passes the lines to `give`. Lines with problems come first. Handles one row at a
    /// time, because there may be a million rows.
    pub fn lines(mut self, rows: &dyn Rows, room: Option<usize>, mut give: impl FnMut(Text)) {
        if !self.shown.whole {
            self.shorten_names(room);
        }
        let columns = self.widths.columns(room);
        give(columns.row(&titles(self.shown)));
        let groups = State::ODD.into_iter().chain([State::Ok]);
        for state in groups.filter(|state| self.states.contains(state)) {
            rows.each(&mut |row| {
                if row.state == state {
                    give(columns.row(&self.cells_within(row, &columns.widths)));
                }
            });
        }
    }

    /// Shortens names to the width that the other columns leave.
    fn shorten_names(&mut self, room: Option<usize>) {
        let all = self.widths.all();
        let mut over = room.map_or(0, |room| all.saturating_sub(room));
        for (width, column) in self.widths.0.iter_mut().zip(&self.shown.columns) {
            if is_name(*column) {
                let shorter = width.saturating_sub(over).max(LEAST_NAME).min(*width);
                over -= *width - shorter;
                *width = shorter;
            }
        }
    }

    fn cells(&self, row: &Row) -> Vec<Text> {
        let columns = self.shown.columns.iter();
        columns
            .map(|column| cell(*column, row, self.shown.whole))
            .collect()
    }

    fn cells_within(&self, row: &Row, widths: &[usize]) -> Vec<Text> {
        let columns = self.shown.columns.iter().zip(widths);
        columns
            .map(|(column, width)| match name(*column, row) {
                Some(name) if !self.shown.whole => shortened(&name, *width).into(),
                _ => cell(*column, row, self.shown.whole),
            })
            .collect()
    }
}

fn titles(shown: &Shown) -> Vec<Text> {
    let columns = shown.columns.iter();
    columns
        .map(|column| {
            Tone::Strong.of(match column {
                Column::State => "STATE",
                Column::Name => "NAME",
                Column::Repository => "REPOSITORY",
                Column::Tag => "TAG",
                Column::Digest => "DIGEST",
                Column::ImageId => "IMAGE ID",
                Column::Trust => "TRUST",
                Column::Origin => "ORIGIN",
            })
        })
        .collect()
}

const fn is_name(column: Column) -> bool {
    matches!(column, Column::Name | Column::Repository)
}

fn name(column: Column, row: &Row) -> Option<String> {
    is_name(column).then(|| match (&row.tag, column) {
        (Some(tag), Column::Name) => format!("{}:{tag}", row.repository),
        _ => row.repository.clone(),
    })
}

fn cell(column: Column, row: &Row, whole: bool) -> Text {
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    let number = |text: &str| match whole {
        true => text.to_owned(),
        false => digits(text).to_owned(),
    };
    match column {
        Column::State => state(row),
        Column::Name | Column::Repository => name(column, row).unwrap_or_default().into(),
        Column::Tag => or(&row.tag, "<none>").into(),
        Column::Digest => number(row.digest.as_deref().unwrap_or("<none>")).into(),
        Column::ImageId => number(&row.image_id).into(),
        Column::Trust => row.trust.map_or("-", |trust| trust.word()).into(),
        Column::Origin => or(&row.origin, "-").into(),
    }
}

pub(super) fn digits(text: &str) -> &str {
    text.strip_prefix(ALGORITHM)
        .and_then(|hex| hex.get(..DIGITS))
        .unwrap_or(text)
}

/// The state of a row as a word, with a sign that is visible without colours.
fn state(row: &Row) -> Text {
    let (tone, sign, word) = match row.state {
        State::Ok => (Tone::Good, ' ', "ok"),
        State::RunsOnly => (Tone::Doubtful, ' ', "runs only"),
        State::Nameless => (Tone::Doubtful, ' ', "no name"),
        State::NoDigest => (Tone::Doubtful, '!', "no digest"),
        State::Unparsable => (Tone::Doubtful, '!', "not readable"),
        State::DigestIsImageId => (Tone::Bad, 'x', "image ID"),
        State::MadeUp => (Tone::Bad, 'x', "made up"),
        State::ImageMissing => (Tone::Bad, 'x', "no image"),
    };
    let known = row.trust.map(|trust| format!(", {}", trust.word()));
    tone.of(format!("{sign} {word}{}", known.unwrap_or_default()))
}

/// Shortens a name to at most `width` columns. Removes its middle, because the registry at
/// the beginning and the tag at the end are more important.
pub(super) fn shortened(name: &str, width: usize) -> String {
    const CUT: char = '…';
    if name.width() <= width {
        return name.to_owned();
    }
    let room = width.saturating_sub(1);
    let fits = |from: &mut dyn Iterator<Item = char>, room: usize| {
        let mut taken = 0;
        from.take_while(|one| {
            taken += one.width().unwrap_or(0);
            taken <= room
        })
        .collect::<Vec<char>>()
    };
    let begin = fits(&mut name.chars(), room / 2);
    let end = fits(&mut name.chars().rev(), room - room / 2);
    let end = end.into_iter().rev();
    begin.into_iter().chain([CUT]).chain(end).collect()
}

/// Aligns cells in columns, except that the last column is not padded. If rows are wider
/// than `room`, folds all rows at the same columns, so that nothing is cut off and whole
/// digests can be copied.
pub(super) fn columns<const N: usize>(lines: &[[Text; N]], room: Option<usize>) -> Vec<Text> {
    let columns = Widths::of(lines).columns(room);
    lines.iter().map(|line| columns.row(line)).collect()
}

/// The widths of the columns in all lines so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Widths(Vec<usize>);

/// The layout of lines in columns.
pub(super) struct Columns {
    widths: Vec<usize>,
    folds: Vec<bool>,
}

impl Widths {
    pub fn of<const N: usize>(lines: &[[Text; N]]) -> Self {
        let mut widths = Self::default();
        for line in lines {
            widths.take(line);
        }
        widths
    }

    pub fn take(&mut self, line: &[Text]) {
        self.0.resize(line.len(), 0);
        for (width, cell) in self.0.iter_mut().zip(line) {
            *width = cell.width().max(*width);
        }
    }

    /// The width of a line that is not folded, including the gaps.
    pub fn all(&self) -> usize {
        self.0.iter().sum::<usize>() + GAP * self.0.len().saturating_sub(1)
    }

    pub fn columns(&self, room: Option<usize>) -> Columns {
        Columns {
            folds: folds(&self.0, room),
            widths: self.0.clone(),
        }
    }
}

impl Columns {
    pub fn row(&self, line: &[Text]) -> Text {
        let mut row = Text::default();
        for (column, cell) in line.iter().enumerate() {
            if self.folds[column] {
                row.break_line(INDENT);
            }
            row.push(cell.clone());
            let is_last = self.folds.get(column + 1).is_none_or(|folded| *folded);
            if !is_last {
                let space = self.widths[column].saturating_sub(cell.width()) + GAP;
                row.push(" ".repeat(space));
            }
        }
        row
    }
}

/// Whether each column begins a new line.
fn folds(widths: &[usize], room: Option<usize>) -> Vec<bool> {
    let mut folds = vec![false; widths.len()];
    let Some(room) = room else {
        return folds;
    };
    let mut end = 0;
    for (column, width) in widths.iter().enumerate() {
        let gap = if column == 0 { 0 } else { GAP };
        folds[column] = column > 0 && end + gap + width > room;
        end = if folds[column] { INDENT } else { end + gap } + width;
    }
    folds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_of(room: Option<usize>, whole: bool) -> String {
        let row = |state, tag: &str| Row {
            repository: "localhost:5000/lab/app".to_owned(),
            tag: Some(tag.to_owned()),
            digest: Some(format!("sha256:{}", "4".repeat(64))),
            image_id: format!("sha256:{}", "a".repeat(64)),
            state,
            trust: None,
            origin: None,
            note: None,
            key: None,
        };
        let rows = vec![row(State::Ok, "v1"), row(State::ImageMissing, "影の箱")];
        let columns = [Column::State, Column::Name, Column::Digest, Column::ImageId];
        let shown = Shown {
            columns: columns.to_vec(),
            whole,
        };
        let mut table = Table::new(&shown);
        rows.each(&mut |row| table.see(row));
        let mut lines = Vec::new();
        table.lines(&rows, room, |line| lines.push(line.render(false)));
        lines.join("\n")
    }

    #[test]
    fn problems_come_first_and_names_are_shortened_to_fit() {
        let expected = "STATE       NAME                           DIGEST        IMAGE ID\n\
                        x no image  localhost:5000/lab/app:影の箱  444444444444  aaaaaaaaaaaa\n  \
                        ok        localhost:5000/lab/app:v1      444444444444  aaaaaaaaaaaa";
        assert_eq!(table_of(None, false), expected);
        let widest = expected.lines().map(|line| Text::from(line).width()).max();
        assert_eq!(table_of(widest, false), expected, "it just fits");
        assert_eq!(
            table_of(Some(60), false),
            "STATE       NAME                  DIGEST        IMAGE ID\n\
             x no image  localhost…app:影の箱  444444444444  aaaaaaaaaaaa\n  \
             ok        localhost…lab/app:v1  444444444444  aaaaaaaaaaaa"
        );
    }

    #[test]
    fn a_narrow_terminal_gets_folded_rows_with_whole_digests() {
        let digest = format!("sha256:{}", "4".repeat(64));
        let id = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            table_of(Some(80), true),
            format!(
                "STATE       NAME\n    DIGEST\n    IMAGE ID\n\
                 x no image  localhost:5000/lab/app:影の箱\n    {digest}\n    {id}\n  \
                 ok        localhost:5000/lab/app:v1\n    {digest}\n    {id}"
            )
        );
    }
}
