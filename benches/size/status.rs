//! Measures listing every image with its digests.

use serde_json::Value;

use crate::contest::{Answer, Contest, Contestant, Effort, head};
use crate::growth::Growth;
use crate::host::{Host, Shape};
use crate::measure::Place;
use crate::peers::{Peers, command, script};

/// The columns that jq and `docker images` print too.
const COLUMNS: &str = "repository,tag,digest,image-id";

/// Prints the rows of `docker images --digests`: each tag of an image with each of the
/// image's digests in the same repository.
const JQ: &str = r#"jq -r '
  def or_none: if . == [] then ["<none>"] else . end;
  .Repositories | to_entries[] | .key as $name
  | [.value | to_entries[] | {image: .value, rest: .key[($name | length):]}]
  | group_by(.image)[] | .[0].image[7:19] as $image | map(.rest)
  | (map(select(startswith(":"))[1:]) | or_none)[] as $tag
  | (map(select(startswith("@"))[1:]) | or_none)[] as $digest
  | [$name, $tag, $digest, $image] | @tsv' "$1""#;

/// Measures a data root without an engine.
pub fn run(peers: &Peers, effort: Effort, sizes: &[usize], growth: &mut Growth) {
    head("Every image, without an engine", false);
    for size in sizes {
        let host = Host::at(&peers.inputs, Shape::Mixed, *size);
        let root = host.root();
        let offline = ["--offline", "--data-root", root.to_str().unwrap()];
        let place = Place::here();
        host.reset_at(&place);
        let cost = Contest {
            place: &place,
            size: format!("{size}"),
            prepare: None,
            calls: false,
            contestants: contestants(peers, &offline, host.store().to_str().unwrap()),
        }
        .run(effort);
        growth.add("every image", *size, cost);
    }
}

/// The exit code of `status` if it shows a problem. Some tags of the input have no digest.
const PROBLEMS: i32 = 4;

/// digestfix with some options, and jq on the same file.
pub fn contestants<'a>(peers: &Peers, options: &[&str], store: &str) -> Vec<Contestant<'a>> {
    let mut contestants = Vec::new();
    for (name, program) in &peers.digestfix {
        let words = [&["status", "--no-trunc", "--columns", COLUMNS], options].concat();
        let table = Contestant::new(name, command(program, &words), |text: &[u8]| {
            columns(text, 3)
        });
        contestants.push(table.that_exits(PROBLEMS));
    }
    for (name, program) in &peers.digestfix {
        let words = [&["status", "--json"], options].concat();
        let json = Contestant::new(&format!("{name} --json"), command(program, &words), rows);
        contestants.push(json.that_exits(PROBLEMS));
    }
    contestants.push(Contestant::new(
        "jq",
        script(JQ, &[store]),
        |text: &[u8]| columns(text, 0),
    ));
    contestants
}

/// Repository, tag, digest, and the first 12 digits of the image ID, from the rows of a
/// table. Skips `after` lines, and stops at an empty line.
pub fn columns(text: &[u8], after: usize) -> Answer {
    let text = String::from_utf8_lossy(text);
    let mut rows: Answer = text
        .lines()
        .skip(after)
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let mut cells: Vec<&str> = line.split_whitespace().take(4).collect();
            if let Some(image) = cells.get_mut(3) {
                *image = image.strip_prefix("sha256:").unwrap_or(image);
                *image = image.get(..12).unwrap_or(image);
            }
            cells.join(" ")
        })
        .collect();
    rows.sort();
    rows
}

/// Like [`columns`], for the output of `status --json`.
fn rows(text: &[u8]) -> Answer {
    let status: Value = serde_json::from_slice(text).unwrap();
    let mut rows: Answer = status["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap_or("<none>").to_owned();
            let image = &text("image_id")[7..19];
            format!(
                "{} {} {} {image}",
                text("repository"),
                text("tag"),
                text("digest")
            )
        })
        .collect();
    rows.sort();
    rows
}
