//! The Ansible collection supports every option of the program.

use std::fs;
use std::path::Path;

use crate::data_root::digestfix;

/// Options with which the module itself runs the program.
const OF_THE_MODULE: [&str; 6] = ["method", "json", "verbose", "color", "quiet", "help"];
/// Options that are useless in a role, because it applies claims.d on a running host.
const NOT_OF_THE_ROLE: [&str; 3] = ["from", "remove", "offline"];

fn collection(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/ansible");
    fs::read_to_string(root.join(path)).unwrap()
}

/// The long options of a command, spelled like Ansible parameters.
fn options(command: &str) -> Vec<String> {
    let help = digestfix(&[command, "--help"]);
    let words = help.stdout.split_whitespace();
    let mut options: Vec<String> = words
        .filter_map(|word| word.strip_prefix("--"))
        .map(|option| option.replace('-', "_"))
        .filter(|option| option.starts_with(|first: char| first.is_ascii_lowercase()))
        .map(|option| option.trim_end_matches([',', '.', ')', ':']).to_owned())
        .filter(|option| !OF_THE_MODULE.contains(&option.as_str()))
        .collect();
    options.sort();
    options.dedup();
    options
}

#[test]
fn every_option_is_a_parameter_of_the_modules_and_the_role() {
    let parameters = collection("plugins/module_utils/request.py");
    let documented = collection("plugins/doc_fragments/request.py")
        + &collection("plugins/modules/digestfix.py");
    let role = collection("roles/digestfix/tasks/apply.yml");
    let apply = options("apply");
    assert!(apply.iter().any(|option| option == "metrics"), "{apply:?}");
    for option in apply.into_iter().chain(options("verify")) {
        assert!(
            parameters.contains(&format!("\"{option}\": {{")),
            "{option} is no parameter"
        );
        assert!(
            documented.contains(&format!("\n  {option}:\n")),
            "{option} is not documented"
        );
        let of_the_role = role.contains(&format!(" {option}: \"{{{{ digestfix_"));
        assert!(
            of_the_role || NOT_OF_THE_ROLE.contains(&option.as_str()),
            "the role does not hand {option} over"
        );
    }
}
