//! Tables for people.

use crate::report::text::{Text, Tone};
use crate::status::{Row, State};

const GAP: usize = 3;

/// How far the lines of a folded row are indented after the first.
const INDENT: usize = 4;

/// The rows of `status`.
pub(super) fn table(rows: &[Row], room: Option<usize>) -> Vec<Text> {
    let none = || "<none>".to_owned();
    let unknown = || "-".to_owned();
    let mut lines = vec![
        [
            "REPOSITORY",
            "TAG",
            "DIGEST",
            "IMAGE ID",
            "STATE",
            "TRUST",
            "ORIGIN",
        ]
        .map(|title| Tone::Strong.of(title)),
    ];
    lines.extend(rows.iter().map(|row| {
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
    }));
    columns(&lines, room)
}

const fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::NoDigest | State::RunsOnly | State::Unparsable => Tone::Doubtful,
        State::DigestIsImageId | State::ImageMissing => Tone::Bad,
    }
}

/// Rows of cells below each other, the last ones as they are. Rows that are wider than
/// there is room for are folded between two columns, each at the same, so that
/// nothing is cut off and whole digests can be copied.
pub(super) fn columns<const N: usize>(lines: &[[Text; N]], room: Option<usize>) -> Vec<Text> {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| line[column].width());
        cells.max().unwrap_or_default()
    });
    let folds = folds(&widths, room);
    let row = |line: &[Text; N]| {
        let mut row = Text::default();
        for (column, cell) in line.iter().enumerate() {
            if folds[column] {
                row.break_line(INDENT);
            }
            row.push(cell.clone());
            let is_last = folds.get(column + 1).is_none_or(|folded| *folded);
            if !is_last {
                let space = widths[column] - cell.width() + GAP;
                row.push(" ".repeat(space));
            }
        }
        row
    };
    lines.iter().map(row).collect()
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
        let rows = table(&rows, room);
        let rows: Vec<String> = rows.iter().map(|row| row.render(false)).collect();
        rows.join("\n")
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
