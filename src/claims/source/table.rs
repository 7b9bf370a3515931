//! Tables with a header line: CSV, and the output of `docker images --digests`, podman,
//! nerdctl, ctr and crictl.

use crate::claims::row::{Lack, Meaning, Row, is_digest};
use crate::claims::source::Problem;
use crate::claims::source::collected::Collected;

/// How many lines to search for the header line. Shell prompts and greetings may precede
/// the header.
const HEADER_WITHIN: usize = 50;

/// A column that digestfix reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Repository,
    /// A column of names. The names may belong to something other than images.
    Name,
    Tag,
    Digest,
    Id,
}

/// The most columns of a table.
const MOST_COLUMNS: usize = 64;

/// How the table separates the cells of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Apart {
    /// Spaces align the cells: each cell begins below its column title.
    Aligned,
    By(char),
}

#[derive(Debug)]
struct Header {
    apart: Apart,
    /// The columns with their positions. The position is the first character in an
    /// aligned table, and the column number in CSV.
    columns: Vec<(usize, Option<Column>)>,
}

impl Column {
    /// Finds the kind of column for a title. Only CSV may have titles in lower case.
    fn titled(title: &str, apart: Apart) -> Option<Self> {
        let title = title.trim_matches('"').trim();
        let upper = title.to_ascii_uppercase().replace('_', " ");
        if apart == Apart::Aligned && upper != title {
            return None;
        }
        match upper.as_str() {
            "REPOSITORY" | "IMAGE" | "IMAGE NAME" => Some(Self::Repository),
            "NAME" | "REF" | "REFERENCE" => Some(Self::Name),
            "TAG" | "IMAGE TAG" => Some(Self::Tag),
            "DIGEST" | "IMAGE DIGEST" => Some(Self::Digest),
            "IMAGE ID" | "ID" | "IMAGEID" => Some(Self::Id),
            _ => None,
        }
    }
}

impl Header {
    fn of(line: &str) -> Option<Self> {
        let separators = ['\t', ',', ';', '|'];
        let by = separators.into_iter().find(|by| line.contains(*by));
        let apart = by.map_or(Apart::Aligned, Apart::By);
        let columns: Vec<(usize, Option<Column>)> = match apart {
            Apart::By(by) => {
                let cells = cells(line, by).into_iter().enumerate();
                cells
                    .map(|(at, title)| (at, Column::titled(title, apart)))
                    .collect()
            }
            Apart::Aligned => titles(line)
                .into_iter()
                .map(|(at, title)| (at, Column::titled(title, apart)))
                .collect(),
        };
        let header = Self { apart, columns };
        let once = [Column::Tag, Column::Digest, Column::Id]
            .into_iter()
            .all(|one| header.count(one) <= 1);
        let named = header.count(Column::Repository) + header.count(Column::Name) == 1;
        // By default, `docker images` prints name, tag and ID, but no digest.
        let known = header.has(Column::Digest) || header.has(Column::Tag) && header.has(Column::Id);
        (once && named && known).then_some(header)
    }

    fn has(&self, one: Column) -> bool {
        self.count(one) > 0
    }

    fn count(&self, one: Column) -> usize {
        let is_that = |(_, column): &&(usize, Option<Column>)| *column == Some(one);
        self.columns.iter().filter(is_that).count()
    }

    fn row<'a>(&self, line: &'a str) -> Row<'a> {
        let mut row = Row::default();
        match self.apart {
            Apart::By(by) => self.fill(&mut row, &cells(line, by)),
            Apart::Aligned => {
                self.fill(&mut row, &self.below(line));
                // A cell that is wider than its column shifts the following cells to the
                // right.
                let words: Vec<&str> = line.split_whitespace().take(MOST_COLUMNS).collect();
                if !is_digest(row.digest) && words.iter().any(|word| is_digest(word)) {
                    row = Row::default();
                    self.fill(&mut row, &words);
                }
            }
        }
        row
    }

    fn fill<'a>(&self, row: &mut Row<'a>, cells: &[&'a str]) {
        for ((_, column), cell) in self.columns.iter().zip(cells) {
            match column {
                Some(Column::Repository | Column::Name) => row.name = cell,
                Some(Column::Tag) => row.tag = cell,
                Some(Column::Digest) => row.digest = cell,
                Some(Column::Id) => row.id = cell,
                None => {}
            }
        }
    }

    /// Cuts a line into cells, at the positions where the column titles begin.
    fn below<'a>(&self, line: &'a str) -> Vec<&'a str> {
        let mut bounds = line.char_indices().map(|(at, _)| at).chain([line.len()]);
        let (mut passed, mut at) = (0, bounds.next().unwrap_or_default());
        let mut begins = Vec::with_capacity(self.columns.len());
        for (column, _) in &self.columns {
            while passed < *column {
                passed += 1;
                at = bounds.next().unwrap_or(line.len());
            }
            begins.push(at);
        }
        let ends = begins.iter().copied().skip(1).chain([line.len()]);
        begins
            .iter()
            .zip(ends)
            .map(|(begin, end)| line.get(*begin..end).unwrap_or_default().trim())
            .collect()
    }
}

/// The titles of a header, each with the position of its first character. Two or more
/// spaces separate titles.
fn titles(line: &str) -> Vec<(usize, &str)> {
    let mut found: Vec<(usize, &str)> = Vec::new();
    let mut chars = 0;
    let mut rest = line;
    while found.len() < MOST_COLUMNS
        && let Some(begin) = rest.find(|char: char| !char.is_whitespace())
    {
        chars += rest[..begin].chars().count();
        rest = &rest[begin..];
        let end = rest.find("  ").unwrap_or(rest.len());
        let title = &rest[..end];
        found.push((chars, title.trim_end()));
        chars += title.chars().count();
        rest = &rest[end..];
    }
    found
}

/// The cells of a CSV line. A quoted cell may contain the separator.
fn cells(line: &str, by: char) -> Vec<&str> {
    let line = match by {
        '|' => line.trim().trim_matches('|'),
        _ => line,
    };
    let mut found = Vec::new();
    let (mut begin, mut quoted) = (0, false);
    for (at, char) in line.char_indices() {
        if char == '"' {
            quoted = !quoted;
        } else if char == by && !quoted {
            if found.len() == MOST_COLUMNS {
                return found;
            }
            found.push(bare(&line[begin..at]));
            begin = at + char.len_utf8();
        }
    }
    found.push(bare(&line[begin..]));
    found
}

fn bare(cell: &str) -> &str {
    cell.trim().trim_matches(['"', '`']).trim()
}

/// Reads a table. Returns false if the text contains no table.
pub fn read(text: &str, place: &str, collected: &mut Collected) -> Result<bool, Problem> {
    let lines = || text.lines().enumerate().map(|(at, line)| (at + 1, line));
    let head = lines()
        .take(HEADER_WITHIN)
        .find_map(|(at, line)| Some((at, Header::of(line)?)));
    let Some((first, mut header)) = head else {
        return Ok(false);
    };
    if !header.has(Column::Digest) {
        collected.remark(format!(
            "{place}: the table has no DIGEST column; print the table with: docker images --digests"
        ));
        return Ok(true);
    }
    let (mut unnamed, mut cut) = (Vec::new(), 0_usize);
    for (number, line) in lines().skip(first) {
        if let Some(next) = Header::of(line).filter(|next| next.has(Column::Digest)) {
            header = next;
            continue;
        }
        let row = header.row(line);
        match row.meaning() {
            Meaning::Nothing(Lack::Digits) => cut += 1,
            Meaning::Nothing(Lack::Name) => unnamed.push(number),
            Meaning::Pin(pin)
                if pin.tag().is_none() && header.has(Column::Name) && !row.name.contains('@') =>
            {
                unnamed.push(number);
            }
            _ => {
                collected.row(&row, place, Some(number))?;
            }
        }
    }
    collected.unnamed(place, &unnamed);
    if cut > 0 {
        collected.remark(format!(
            "{place}: {cut} of the digests are cut short; print the table again with --no-trunc"
        ));
    }
    Ok(true)
}
