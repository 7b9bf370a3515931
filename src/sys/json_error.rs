//! Describes errors of serde_json in plain words: why serde_json could not read a text or
//! a value.

use serde_json::Error;
use serde_json::error::Category;

/// The reason for an error, and its position in the text.
pub(crate) fn in_words(error: &Error) -> String {
    let place = format!("line {} column {}", error.line(), error.column());
    let text = error.to_string();
    let at = format!(" at {place}");
    let reason = match error.classify() {
        Category::Eof => "the JSON ends too early".to_owned(),
        _ => reason(text.strip_suffix(&at).unwrap_or(&text)),
    };
    match error.line() {
        // serde_json reports line 0 for a value that was already parsed, because such a
        // value has no position.
        0 => reason,
        _ => format!("{reason}{at}"),
    }
}

fn reason(text: &str) -> String {
    let quoted = |rest: &str| rest.split('`').nth(1).unwrap_or(rest).to_owned();
    for (begin, end) in [
        ("missing field ", "is missing"),
        ("unknown field ", "is not known"),
        ("unknown variant ", "is not known"),
        ("duplicate field ", "appears twice"),
    ] {
        if let Some(rest) = text.strip_prefix(begin) {
            return format!("\"{}\" {end}", quoted(rest));
        }
    }
    let mismatch = ["invalid type: ", "invalid value: ", "invalid length "]
        .into_iter()
        .find_map(|begin| text.strip_prefix(begin)?.split_once(", expected "));
    if let Some((found, expected)) = mismatch {
        return format!("{} instead of {expected}", kind(found));
    }
    match text {
        "expected value" => "the text is not JSON".to_owned(),
        "trailing characters" => "text follows the end of the JSON".to_owned(),
        other => other.to_owned(),
    }
}

fn kind(found: &str) -> String {
    match found {
        "sequence" => "a list".to_owned(),
        "map" => "an object".to_owned(),
        other => {
            let quoted = other.split('`').nth(1);
            let text = other.strip_prefix("string ");
            text.or(quoted).unwrap_or(other).to_owned()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct One {
        a: u8,
    }

    #[test]
    fn each_reason_is_told_without_the_parsers_own_words() {
        for (text, expected) in [
            ("", "the JSON ends too early at line 1 column 0"),
            ("{\"a\": 1", "the JSON ends too early at line 1 column 7"),
            ("hello", "the text is not JSON at line 1 column 1"),
            (
                "{\"a\": 1} x",
                "text follows the end of the JSON at line 1 column 10",
            ),
            ("{}", "\"a\" is missing at line 1 column 2"),
            (
                "{\"a\": 1, \"b\": 2}",
                "\"b\" is not known at line 1 column 12",
            ),
            ("{\"a\": [1]}", "a list instead of u8 at line 1 column 6"),
            ("{\"a\": \"x\"}", "\"x\" instead of u8 at line 1 column 9"),
            ("{\"a\": -1}", "-1 instead of u8 at line 1 column 8"),
            ("{\"a\": true}", "true instead of u8 at line 1 column 10"),
        ] {
            let error = serde_json::from_str::<One>(text).unwrap_err();
            assert_eq!(in_words(&error), expected, "{text}");
        }
    }
}
