//! Tables for people.

use crate::status::Row;

/// The rows of `status`.
pub(super) fn table(rows: &[Row]) -> String {
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
        .map(str::to_owned),
    ];
    lines.extend(rows.iter().map(|row| {
        [
            row.repository.clone(),
            row.tag.clone().unwrap_or_else(none),
            row.digest.clone().unwrap_or_else(none),
            row.image_id
                .strip_prefix("sha256:")
                .and_then(|hex| hex.get(..12))
                .unwrap_or(&row.image_id)
                .to_owned(),
            row.state.text().to_owned(),
            row.trust
                .map_or_else(unknown, |trust| trust.word().to_owned()),
            row.origin.clone().unwrap_or_else(unknown),
        ]
    }));
    columns(&lines)
}

/// Cells below each other, the last ones as they are.
pub(super) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(|column| match column + 1 {
        last if last == N => 0,
        _ => width(column),
    });
    let padded: Vec<String> = lines
        .iter()
        .map(|line| {
            let cells = line.iter().zip(widths);
            let cells: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("   ")
        })
        .collect();
    padded.join("\n")
}
