//! Tables for people.

use crate::plan::status::{Row, Rows, State};
use crate::report::text::{Text, Tone};

const GAP: usize = 3;

/// How far the lines of a folded row are indented after the first.
const INDENT: usize = 4;

const TITLES: [&str; 7] = [
    "REPOSITORY",
    "TAG",
    "DIGEST",
    "IMAGE ID",
    "STATE",
    "TRUST",
    "ORIGIN",
];

/// Gives the lines of `status`, one row at a time: there may be a million.
pub(super) fn table(rows: &dyn Rows, room: Option<usize>, mut give: impl FnMut(Text)) {
    let titles = TITLES.map(|title| Tone::Strong.of(title));
    let mut widths = Widths::default();
    widths.take(&titles);
    rows.each(&mut |row| widths.take(&cells(row)));
    let columns = widths.columns(room);
    give(columns.row(&titles));
    rows.each(&mut |row| give(columns.row(&cells(row))));
}

fn cells(row: &Row) -> [Text; 7] {
    let none = || "<none>".to_owned();
    let unknown = || "-".to_owned();
    [
        row.repository.clone().into(),
        row.tag.clone().unwrap_or_else(none).into(),
        row.digest.clone().unwrap_or_else(none).into(),
        row.image_id
            .strip_prefix("sha256:")
            .and_then(|hex| hex.get(..12))
            .unwrap_or(&row.image_id)
            .into(),
        tone(row.state).of(row.state.text()),
        row.trust
            .map_or_else(unknown, |trust| trust.word().to_owned())
            .into(),
        row.origin.clone().unwrap_or_else(unknown).into(),
    ]
}

const fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::NoDigest | State::RunsOnly | State::Unparsable => Tone::Doubtful,
        State::MadeUp | State::DigestIsImageId | State::ImageMissing => Tone::Bad,
    }
}

/// Rows of cells below each other, the last ones as they are. Rows that are wider than
/// there is room for are folded between two columns, each at the same, so that
/// nothing is cut off and whole digests can be copied.
pub(super) fn columns<const N: usize>(lines: &[[Text; N]], room: Option<usize>) -> Vec<Text> {
    let mut widths = Widths::default();
    for line in lines {
        widths.take(line);
    }
    let columns = widths.columns(room);
    lines.iter().map(|line| columns.row(line)).collect()
}

/// How wide the columns are, of the lines so far.
struct Widths<const N: usize>([usize; N]);

/// Columns that lines are laid out in.
struct Columns<const N: usize> {
    widths: [usize; N],
    folds: [bool; N],
}

impl<const N: usize> Default for Widths<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Widths<N> {
    fn take(&mut self, line: &[Text; N]) {
        for (width, cell) in self.0.iter_mut().zip(line) {
            *width = cell.width().max(*width);
        }
    }

    fn columns(self, room: Option<usize>) -> Columns<N> {
        Columns {
            folds: folds(&self.0, room),
            widths: self.0,
        }
    }
}

impl<const N: usize> Columns<N> {
    fn row(&self, line: &[Text; N]) -> Text {
        let mut row = Text::default();
        for (column, cell) in line.iter().enumerate() {
            if self.folds[column] {
                row.break_line(INDENT);
            }
            row.push(cell.clone());
            let is_last = self.folds.get(column + 1).is_none_or(|folded| *folded);
            if !is_last {
                let space = self.widths[column] - cell.width() + GAP;
                row.push(" ".repeat(space));
            }
        }
        row
    }
}

/// The columns that begin a new line.
fn folds<const N: usize>(widths: &[usize; N], room: Option<usize>) -> [bool; N] {
    let mut folds = [false; N];
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

    fn table_of(room: Option<usize>) -> String {
        let row = |state, tag: &str| Row {
            repository: "localhost:5000/lab/app".to_owned(),
            tag: Some(tag.to_owned()),
            digest: Some(format!("sha256:{}", "4".repeat(64))),
            image_id: format!("sha256:{}", "a".repeat(64)),
            state,
            trust: None,
            origin: None,
            note: None,
        };
        let rows = [row(State::Ok, "v1"), row(State::ImageMissing, "影の箱")];
        let mut lines = Vec::new();
        table(&rows.to_vec(), room, |line| lines.push(line.render(false)));
        lines.join("\n")
    }

    #[test]
    fn one_line_a_row_where_nobody_says_how_wide() {
        let digest = format!("sha256:{}", "4".repeat(64));
        let expected = format!(
            "REPOSITORY               TAG      DIGEST{}   IMAGE ID       STATE           TRUST   ORIGIN\n\
             localhost:5000/lab/app   v1       {digest}   aaaaaaaaaaaa   ok              -       -\n\
             localhost:5000/lab/app   影の箱   {digest}   aaaaaaaaaaaa   image missing   -       -",
            " ".repeat(65)
        );
        assert_eq!(table_of(None), expected);
        let widest = expected.lines().map(|line| Text::from(line).width()).max();
        assert_eq!(table_of(widest), expected, "it just fits");
    }

    #[test]
    fn a_narrow_terminal_gets_folded_rows_with_whole_digests() {
        let digest = format!("sha256:{}", "4".repeat(64));
        assert_eq!(
            table_of(Some(80)),
            format!(
                "REPOSITORY               TAG\n    DIGEST\n    IMAGE ID       STATE           TRUST   ORIGIN\n\
                 localhost:5000/lab/app   v1\n    {digest}\n    aaaaaaaaaaaa   ok              -       -\n\
                 localhost:5000/lab/app   影の箱\n    {digest}\n    aaaaaaaaaaaa   image missing   -       -"
            )
        );
    }
}
