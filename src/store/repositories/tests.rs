#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

const BEFORE: &str = include_str!("../../../tests/fixtures/seed/before.json");
const AFTER: &str = include_str!("../../../tests/fixtures/seed/after.json");
const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
const DIGEST: &str = "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";

fn parse(text: &str) -> Store {
    Store::parse(text).unwrap()
}

fn text(store: &Store) -> String {
    String::from_utf8(store.to_bytes()).unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn image(text: &str) -> ImageId {
    text.parse().unwrap()
}

fn refused(text: &str) -> String {
    match Store::parse(text) {
        Ok(store) => panic!("{text} was read as {store:?}"),
        Err(error) => error.to_string(),
    }
}

fn misfits(text: &str) -> Vec<Misfit> {
    parse(text)
        .entries()
        .filter_map(|entry| entry.meaning().err())
        .collect()
}

#[test]
fn real_files_round_trip_byte_for_byte() {
    for file in [BEFORE, AFTER] {
        assert_eq!(text(&parse(file)), file);
        assert!(parse(file).entries().all(|entry| entry.meaning().is_ok()));
        assert_eq!(parse(file).unknown_keys().count(), 0);
    }
}

#[test]
fn an_added_digest_is_one_entry_more_at_its_place_in_the_order() {
    let mut store = parse(BEFORE);
    let httpd = reference(&format!("httpd@{DIGEST}"));
    assert_eq!(store.insert(&httpd, &image(ID)), Ok(true));
    let place = BEFORE.find("},\"jettech/").unwrap();
    let expected = format!(
        "{},\"httpd@{DIGEST}\":\"{ID}\"{}",
        &BEFORE[..place],
        &BEFORE[place..]
    );
    assert_eq!(text(&store), expected);
    assert_eq!(store.insert(&httpd, &image(ID)), Ok(false));
    assert_eq!(
        store.insert(&httpd, &image(OTHER)),
        Err(Occupied(ID.to_owned()))
    );
    assert_eq!(text(&store), expected);
    assert_eq!(store.remove(&httpd), Some(ID.to_owned()));
    assert_eq!(text(&store), BEFORE);
}

#[test]
fn the_last_reference_takes_its_repository_along() {
    let mut store = parse(&format!(r#"{{"Repositories":{{"a":{{"a:1":"{ID}"}}}}}}"#));
    assert_eq!(store.remove(&reference("a:2")), None);
    assert_eq!(store.remove(&reference("b:1")), None);
    assert_eq!(store.remove(&reference("a:1")), Some(ID.to_owned()));
    assert_eq!(text(&store), r#"{"Repositories":{}}"#);
}

#[test]
fn removing_nothing_changes_nothing() {
    let file = r#"{"Repositories":{"a":{}}}"#;
    let mut store = parse(file);
    assert_eq!(store.remove(&reference("a:1")), None);
    assert_eq!(text(&store), file);
}

#[test]
fn a_reference_is_kept_under_its_familiar_name() {
    let mut store = parse("{}");
    let full = reference("index.docker.io/library/httpd:2");
    store.insert(&full, &image(ID)).unwrap();
    assert_eq!(
        text(&store),
        format!(r#"{{"Repositories":{{"httpd":{{"httpd:2":"{ID}"}}}}}}"#)
    );
    assert_eq!(store.get(&reference("httpd:2")), Some(ID));
    assert_eq!(
        store.references().next(),
        Some((reference("httpd:2"), image(ID)))
    );
}

#[test]
fn other_layouts_are_read_and_written_as_the_engine_would() {
    let file = format!(
        " {{\r\n\t\"Repositories\": {{ \"b\": {{}}, \"a\": {{ \"a\\u003a1\": \"{ID}\" }} }}\n}}\n\n"
    );
    assert_eq!(
        text(&parse(&file)),
        format!(r#"{{"Repositories":{{"a":{{"a:1":"{ID}"}},"b":{{}}}}}}"#)
    );
    assert_eq!(text(&parse("{}")), r#"{"Repositories":{}}"#);
    assert_eq!(
        text(&parse("{\"\\u0052epositories\":{}}")),
        r#"{"Repositories":{}}"#
    );
}

#[test]
fn characters_are_escaped_as_go_does() {
    let file = "{\"Repositories\":{\"\":{\"\
                \\u003c\\u0026\\u003e\\u2028\\u2029\\\"\\\\/\\n\\r\\t\\u0000\\u001f\u{7f}é\u{10ffff}\
                \":\"\\u003c\"}}}";
    assert_eq!(text(&parse(file)), file);
}

/// Go escapes these characters, but a file from another editor may contain them
/// unescaped.
#[test]
fn characters_that_go_escapes_are_escaped_wherever_they_come_from() {
    for (read, written) in [("<", "\\u003c"), ("&", "\\u0026"), ("\u{2028}", "\\u2028")] {
        let file = |odd: &str| {
            format!(r#"{{"Repositories":{{"a{odd}":{{"a:{odd}":"{odd}"}},"b":{{"b:1":"{ID}"}}}}}}"#)
        };
        assert_eq!(text(&parse(&file(read))), file(written));
        assert_eq!(text(&parse(&file(written))), file(written));
    }
}

#[test]
fn unknown_top_level_keys_stay_where_and_as_they_are() {
    for file in [
        r#"{"Repositories":{},"z":1,"a":{"b" : [ 1e999, "\ud800" ] , "b":null}}"#,
        r#"{"z":1.50,"Repositories":{},"a":"x\u003cy<"}"#,
        r#"{"repositorie":[],"Repositorys":null,"Repositories":{}}"#,
        r#"{"":[[[]]],"Repositories":{}}"#,
    ] {
        assert_eq!(text(&parse(file)), file);
        let mut store = parse(file);
        store.insert(&reference("a:1"), &image(ID)).unwrap();
        assert_ne!(text(&store), file);
        store.remove(&reference("a:1"));
        assert_eq!(text(&store), file);
    }
    let store = parse(r#"{"z":1,"Repositories":{},"a":2}"#);
    assert_eq!(store.unknown_keys().collect::<Vec<_>>(), ["z", "a"]);
    assert_eq!(text(&parse(r#"{"z":1}"#)), r#"{"Repositories":{},"z":1}"#);
}

#[test]
fn stores_are_equal_if_they_are_written_alike() {
    assert_eq!(parse("{}"), parse("{ \"Repositories\" : {} }\n"));
    assert_ne!(parse("{}"), parse(r#"{"Repositories":{"a":{}}}"#));
    assert_ne!(parse("{}"), parse(r#"{"a":1}"#));
}

#[test]
fn every_misfit_is_kept_and_says_what_is_wrong() {
    let place = |repository: &str, key: &str| Misfit::Misplaced {
        repository: repository.to_owned(),
        key: key.to_owned(),
    };
    let misplaced = |repository: &str, key: &str| Some(place(repository, key));
    // `None` stands for a reference that digestfix cannot parse.
    let table = [
        ("a", format!("a:@{DIGEST}"), ID, None),
        ("a", "a:.x".to_owned(), ID, None),
        ("a", String::new(), ID, None),
        ("a", "A:1".to_owned(), ID, None),
        ("a", format!("a@{}", &DIGEST[..70]), ID, None),
        ("a", "a\u{1b}[2J".to_owned(), ID, None),
        ("a", DIGEST[7..].to_owned(), ID, None),
        ("a", "a".to_owned(), ID, Some(Misfit::NameOnly)),
        ("a", "b:1".to_owned(), ID, misplaced("b", "b:1")),
        ("", "a:1".to_owned(), ID, misplaced("a", "a:1")),
        (
            "docker.io/library/a",
            "a:1".to_owned(),
            ID,
            misplaced("a", "a:1"),
        ),
        (
            "docker.io/library/a",
            "docker.io/library/a:1".to_owned(),
            ID,
            misplaced("a", "a:1"),
        ),
        ("a", "library/a:1".to_owned(), ID, misplaced("a", "a:1")),
        (
            "a",
            format!("a:1@{DIGEST}"),
            ID,
            misplaced("a", &format!("a@{DIGEST}")),
        ),
        (
            "a",
            "a:1".to_owned(),
            "",
            Some(Misfit::ImageId(String::new())),
        ),
        (
            "a",
            "a:1".to_owned(),
            "x\n",
            Some(Misfit::ImageId("x\n".to_owned())),
        ),
        (
            "a",
            "a:1".to_owned(),
            &ID[..70],
            Some(Misfit::ImageId(ID[..70].to_owned())),
        ),
        (
            "a",
            "a:1".to_owned(),
            &ID[7..],
            Some(Misfit::ImageId(ID[7..].to_owned())),
        ),
    ];
    for (repository, key, value, expected) in table {
        let file = serde_json::json!({"Repositories": {repository: {&key: value}}}).to_string();
        let store = parse(&file);
        let entries: Vec<Entry> = store.entries().collect();
        assert_eq!(entries.len(), 1);
        assert_eq!(
            (entries[0].repository, entries[0].key, entries[0].value),
            (repository, key.as_str(), value)
        );
        let misfit = entries[0].meaning().unwrap_err();
        match expected {
            Some(expected) => assert_eq!(misfit, expected, "{file}"),
            None => assert!(matches!(misfit, Misfit::Reference(_)), "{file}: {misfit:?}"),
        }
        let said = misfit.to_string();
        assert!(
            !said.is_empty() && !said.contains(char::is_control),
            "{said:?}"
        );
        assert_eq!(text(&store), file);
        assert_eq!(store.references().count(), 0);
    }
    assert_eq!(
        misfits(&format!(r#"{{"Repositories":{{"a":{{"b:1":"{ID}"}}}}}}"#))[0].to_string(),
        r#"the engine looks for this reference as "b:1" under "b", not at this place"#
    );
}

/// The error message ends with a line and a column. Lines and columns count from 1. The
/// column is the position of the last byte that was read.
#[test]
fn what_is_no_store_is_refused_with_its_place() {
    let id = format!("\"{ID}\"");
    let table: Vec<(String, &str, &str)> = [
        // Duplicate keys at each level of the JSON.
        (
            r#"{"Repositories":{},"Repositories":{}}"#,
            r#"duplicate key "Repositories""#,
            "line 1 column 33",
        ),
        (
            "{\"Repositories\":{},\n\"\\u0052epositories\":{}}",
            r#"duplicate key "Repositories""#,
            "line 2 column 19",
        ),
        (
            "{\"x\":1,\n\"x\":1}",
            r#"duplicate key "x""#,
            "line 2 column 3",
        ),
        (
            "{\"Repositories\":{\"a\":{},\n \"a\":{}}}",
            r#"duplicate repository "a""#,
            "line 2 column 4",
        ),
        (
            "{\"Repositories\":{\"a\":{\"a:1\":ID,\n\"a:1\":ID}}}",
            r#"duplicate reference "a:1" in repository "a""#,
            "line 2 column 5",
        ),
        (
            "{\"Repositories\":{\"a\":{\"a:1\":ID,\n\n\"a\\u003a1\":ID}}}",
            r#"duplicate reference "a:1" in repository "a""#,
            "line 3 column 10",
        ),
        // Keys that Go treats as "Repositories".
        (
            "{\"repositories\":{}}",
            r#"reads the key "repositories" as "Repositories""#,
            "line 1 column 15",
        ),
        (
            "{\"REPOSITORIES\":null}",
            r#"reads the key "REPOSITORIES" as "Repositories""#,
            "line 1 column 15",
        ),
        (
            "{\"Repo\u{17f}itories\":{}}",
            "reads the key \"Repo\u{17f}itories\" as \"Repositories\"",
            "line 1 column 16",
        ),
        (
            "{\"Repositorie\u{17f}\":{}}",
            "reads the key \"Repositorie\u{17f}\" as \"Repositories\"",
            "line 1 column 16",
        ),
        (
            "{\"Repositories\":{},\n\"repoSitories\":{}}",
            r#"reads the key "repoSitories""#,
            "line 2 column 14",
        ),
        // Wrong types at each level of the JSON.
        (
            "null",
            "null instead of an object with the key \"Repositories\"",
            "line 1 column 4",
        ),
        (
            "[]",
            "a list instead of an object with the key \"Repositories\"",
            "line 1 column 0",
        ),
        ("1", "1 instead of", "line 1 column 1"),
        ("\"x\"", "\"x\" instead of", "line 1 column 3"),
        (
            "{\"Repositories\":null}",
            "null instead of an object of repositories",
            "line 1 column 20",
        ),
        (
            "{\"Repositories\":[]}",
            "a list instead of an object of repositories",
            "line 1 column 16",
        ),
        (
            "{\"Repositories\":true}",
            "true instead of an object of repositories",
            "line 1 column 20",
        ),
        (
            "{\"Repositories\":\n{\"a\":null}}",
            "null instead of an object with the references of repository \"a\"",
            "line 2 column 9",
        ),
        (
            "{\"Repositories\":\n{\"a\":[]}}",
            "a list instead of an object with the references of repository \"a\"",
            "line 2 column 5",
        ),
        (
            "{\"Repositories\":{\"a\":\"b\"}}",
            "instead of an object with the references of repository \"a\"",
            "line 1 column 24",
        ),
        (
            "{\"Repositories\":{\"a\":{\"a:1\":null}}}",
            "null instead of a string with the image ID for reference \"a:1\" in repository \"a\"",
            "line 1 column 32",
        ),
        (
            "{\"Repositories\":{\"a\":{\"a:1\":1}}}",
            "1 instead of a string with the image ID",
            "line 1 column 29",
        ),
        (
            "{\"Repositories\":{\"a\":{\"a:1\":1.5}}}",
            "1.5 instead of a string with the image ID",
            "line 1 column 31",
        ),
        (
            "{\"Repositories\":{\"a\":{\"a:1\":[]}}}",
            "a list instead of a string with the image ID",
            "line 1 column 28",
        ),
        (
            "{\"Repositories\":{\"a\":{\"a:1\":{}}}}",
            "an object instead of a string with the image ID",
            "line 1 column 28",
        ),
        (
            "{\"Repositories\":{\"a\":{\"a:1\":false}}}",
            "false instead of a string with the image ID",
            "line 1 column 33",
        ),
        // Texts that are not valid JSON.
        ("", "ends too early", "line 1 column 0"),
        (" \n", "ends too early", "line 2 column 0"),
        ("\u{feff}{}", "the text is not JSON", "line 1 column 1"),
        ("{}x", "text follows the end of the JSON", "line 1 column 3"),
        (
            "{}\n{}",
            "text follows the end of the JSON",
            "line 2 column 1",
        ),
        (
            "{}\0",
            "text follows the end of the JSON",
            "line 1 column 3",
        ),
        (
            "{\"Repositories\":{}},",
            "text follows the end of the JSON",
            "line 1 column 20",
        ),
        (
            "{\"Repositories\":{},}",
            "trailing comma",
            "line 1 column 20",
        ),
        (
            "{Repositories:{}}",
            "key must be a string",
            "line 1 column 2",
        ),
        (
            "{'Repositories':{}}",
            "key must be a string",
            "line 1 column 2",
        ),
        (
            "{\"Repositories\":{\"a\nb\":{}}}",
            "control character",
            "line 2 column 0",
        ),
        (
            "{\"Repositories\":{\"\\ud800\":{}}}",
            "unexpected end of hex escape",
            "line 1 column 25",
        ),
        (
            "{\"Repositories\":{\"\\x\":{}}}",
            "invalid escape",
            "line 1 column 20",
        ),
        ("{\"x\":tru}", "expected ident", "line 1 column 9"),
        ("{\"x\":01}", "invalid number", "line 1 column 7"),
        ("{// no\n}", "key must be a string", "line 1 column 2"),
    ]
    .into_iter()
    .map(|(file, problem, place)| (file.replace("ID", &id), problem, place))
    .collect();
    for (file, problem, place) in table {
        let said = refused(&file);
        assert!(said.contains(problem), "{file}: {said}");
        assert!(said.ends_with(&format!("at {place}")), "{file}: {said}");
        assert_eq!(said.matches(" column ").count(), 1, "{said}");
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    for end in 0..BEFORE.len() {
        let error = Store::parse(&BEFORE.as_bytes()[..end]).unwrap_err();
        let StoreError::Json(json) = &error else {
            panic!("{end}: {error}")
        };
        assert!(json.is_eof(), "{end}: {error}");
        assert_eq!((json.line(), json.column()), (1, end), "{error}");
    }
}

#[test]
fn a_byte_that_is_not_utf8_is_found_wherever_it_is() {
    for at in 0..BEFORE.len() {
        let mut bytes = BEFORE.as_bytes().to_vec();
        bytes[at] = 0xff;
        let error = Store::parse(bytes.as_slice()).unwrap_err();
        assert!(
            matches!(error, StoreError::NotUtf8 { offset } if offset == at),
            "{at}: {error}"
        );
        assert_eq!(error.to_string(), format!("not UTF-8 at byte {at}"));
    }
    let cut_off = [&BEFORE.as_bytes()[..20], &[0xe2, 0x80]].concat();
    assert!(matches!(
        Store::parse(cut_off),
        Err(StoreError::NotUtf8 { offset: 20 })
    ));
}

#[test]
fn deep_nesting_is_an_error_and_nothing_worse() {
    for depth in [20_000, 1_000_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let bomb = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for whole in [bomb.clone(), open.repeat(depth)] {
                refused(&whole);
                refused(&format!("{{\"Repositories\":{whole}}}"));
                refused(&format!("{{\"Repositories\":{{\"a\":{whole}}}}}"));
                refused(&format!(
                    "{{\"Repositories\":{{\"a\":{{\"a:1\":{whole}}}}}}}"
                ));
            }
        }
    }
}

/// The engine's parser accepts 10,000 levels of nesting, including the outermost object.
#[test]
fn an_unknown_value_may_nest_as_deep_as_the_engine_reads() {
    let file = |depth: usize, open: &str, close: &str| {
        format!(
            "{{\"Repositories\":{{}},\n\"x\":{}1{}}}",
            open.repeat(depth),
            close.repeat(depth)
        )
    };
    for (open, close) in [("[", "]"), ("{\"\\\"[[[\\\\\":", "}")] {
        let deep = file(9_999, open, close);
        assert_eq!(text(&parse(&deep)).len(), deep.len() - 1);
        for depth in [10_000, 1_000_000] {
            let said = refused(&file(depth, open, close));
            assert!(
                said.starts_with("the value of \"x\" is nested too deeply: the engine reads"),
                "{said}"
            );
            assert!(said.contains(" at line 2 column "), "{said}");
        }
    }
    let wide = format!("{{\"x\":[{}1]}}", "[[]],".repeat(20_000));
    parse(&wide);
    let words = format!(
        "{{\"x\":\"{}\",\"Repositories\":{{}}}}",
        "[{\\\"".repeat(20_000)
    );
    assert_eq!(text(&parse(&words)), words);
}

#[test]
fn size_is_limited() {
    let limit = usize::try_from(MAX_BYTES).unwrap();
    let mut bytes = b"{}".to_vec();
    bytes.resize(limit, b' ');
    Store::parse(bytes.as_slice()).unwrap();
    bytes.push(b' ');
    let error = Store::parse(bytes.as_slice()).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { size } if size == MAX_BYTES + 1));
    assert_eq!(
        error.to_string(),
        "268435457 bytes is more than a reference store can have (at most 268435456)"
    );
}

#[test]
fn many_unknown_keys_take_no_time() {
    let keys: Vec<String> = (0..200_000).map(|n| format!("\"k{n}\":0")).collect();
    let file = format!("{{\"Repositories\":{{}},{}}}", keys.join(","));
    assert_eq!(text(&parse(&file)), file);
}

#[test]
fn what_was_taken_can_be_put_back_even_if_it_is_no_image_id() {
    let file = r#"{"Repositories":{"a":{"a:1":"broken"}}}"#;
    let mut store = parse(file);
    let taken = store.remove(&reference("a:1")).unwrap();
    assert_eq!(text(&store), r#"{"Repositories":{}}"#);
    store.put_back(&reference("a:1"), &taken);
    assert_eq!(text(&store), file);
}

#[test]
fn a_store_that_nobody_read_is_written_like_any_other() {
    let mut store = Store::default();
    assert_eq!(store, Store::parse(b"{}".as_slice()).unwrap());
    let reference = Reference::parse("lab/app:v1").unwrap();
    let image = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
    store.insert(&reference, &image).unwrap();
    let written = Store::parse(store.to_bytes()).unwrap();
    assert!(written.points_at(&reference, &image));
}
