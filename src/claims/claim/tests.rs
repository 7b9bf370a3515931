#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

const HEX: &str = "abababababababababababababababababababababababababababababababab";

/// Replaces each `#` in the test data by 64 hexadecimal digits.
fn spelled(pattern: &str) -> String {
    pattern.replace('#', HEX)
}

fn read(pattern: &str) -> Claim {
    let text = spelled(pattern);
    let claim: Claim = text.parse().unwrap();
    assert_eq!(claim.text, text);
    assert_eq!(claim.to_string(), text);
    claim
}

/// Prints a parsed claim as one line, with short names such as `httpd`.
fn summary(statement: &Statement) -> String {
    let line = match statement {
        Statement::TaggedHasDigest {
            repository,
            tag,
            digest,
        } => format!(
            "{} has {}",
            repository.clone().with_tag(tag.clone()),
            repository.clone().with_digest(digest.clone())
        ),
        Statement::OnlyImageHasDigest { repository, digest } => {
            format!("only {}", repository.clone().with_digest(digest.clone()))
        }
        Statement::PointsAt { reference, image } => {
            let image = match image {
                ImageName::Id(id) => format!("ID {id}"),
                ImageName::Prefix(prefix) => format!("prefix {prefix}"),
                ImageName::Reference(reference) => format!("reference {reference}"),
                ImageName::ReferenceOrPrefix(reference, prefix) => {
                    format!("reference {reference} or prefix {prefix}")
                }
            };
            format!("{reference} is {image}")
        }
        Statement::ManifestBrought { digest, .. } => format!("manifest {digest}"),
    };
    line.replace(HEX, "#")
}

#[test]
fn accepted_forms() {
    let sha512 = format!("a@sha512:{HEX}{HEX}");
    let longest_tag = format!("a:{}@sha256:#", "t".repeat(128));
    let longest_tag_meaning = format!("a:{} has a@sha256:#", "t".repeat(128));
    let table = [
        ("a:1@sha256:#", "a:1 has a@sha256:#"),
        ("docker.io/library/a:1@sha256:#", "a:1 has a@sha256:#"),
        ("index.docker.io/x/a:1@sha256:#", "x/a:1 has x/a@sha256:#"),
        (
            "localhost:5000/x/a:1@sha256:#",
            "localhost:5000/x/a:1 has localhost:5000/x/a@sha256:#",
        ),
        (
            "[fe80::1]:5000/a@sha256:#",
            "only [fe80::1]:5000/a@sha256:#",
        ),
        ("a@sha256:#", "only a@sha256:#"),
        (sha512.as_str(), "only a@sha512:##"),
        (longest_tag.as_str(), longest_tag_meaning.as_str()),
        ("a:1=sha256:#", "a:1 is ID sha256:#"),
        ("a:1=#", "a:1 is ID sha256:#"),
        ("a@sha256:#=sha256:#", "a@sha256:# is ID sha256:#"),
        ("a@sha256:#=#", "a@sha256:# is ID sha256:#"),
        ("a:1=sha256:c", "a:1 is prefix c"),
        ("a:1=sha256:cafe", "a:1 is prefix cafe"),
        ("a:1=sha256:0123456789ab", "a:1 is prefix 0123456789ab"),
        ("a:1=b:2", "a:1 is reference b:2"),
        ("a:1=docker.io/library/b:2", "a:1 is reference b:2"),
        ("a:1=nginx", "a:1 is reference nginx:latest"),
        ("a:1=x.y/nginx", "a:1 is reference x.y/nginx:latest"),
        ("a:1=b@sha256:#", "a:1 is reference b@sha256:#"),
        ("a:1=b:2@sha256:#", "a:1 is reference b@sha256:#"),
        ("a:1=a:1", "a:1 is reference a:1"),
        ("a:1=cafe", "a:1 is reference cafe:latest or prefix cafe"),
        ("a:1=7", "a:1 is reference 7:latest or prefix 7"),
        ("a:1=cafe:1", "a:1 is reference cafe:1"),
        ("a:1=cafe/babe", "a:1 is reference cafe/babe:latest"),
        ("sha256/a:1=b:1", "sha256/a:1 is reference b:1"),
        ("x.y/sha256:1=b:1", "x.y/sha256:1 is reference b:1"),
        ("sha512:1=b:1", "sha512:1 is reference b:1"),
    ];
    for (pattern, meaning) in table {
        assert_eq!(summary(&read(pattern).statement), meaning, "{pattern}");
    }
}

#[test]
fn an_id_cut_at_any_length_is_its_beginning() {
    for length in 1..64 {
        let claim = read(&format!("a:1=sha256:{}", &HEX[..length]));
        assert_eq!(
            summary(&claim.statement),
            format!("a:1 is prefix {}", &HEX[..length])
        );
    }
}

#[test]
fn refused_forms() {
    let long_name = format!("{}:1=b:1", "n".repeat(256));
    let long_tag = format!("a:{}=b:1", "t".repeat(129));
    let megabyte = "a".repeat(1 << 20);
    let table = [
        // Claims that are empty or incomplete.
        ("", "the repository name is missing"),
        ("=", "the repository name is missing"),
        ("=b:1", "the repository name is missing"),
        ("a:1=", "right of \"=\""),
        ("a", "the digest is missing"),
        ("a:1", "the digest is missing"),
        ("a=b:1", "left of \"=\" must be a tag"),
        ("a:1@sha256:#=b:1", "not both"),
        // An image ID or digest without a name is not a reference.
        ("#", "an image ID, not a repository name"),
        ("#=a:1", "an image ID, not a repository name"),
        ("sha256:#", "the name is missing"),
        ("sha256:#=a:1", "cannot be a repository name"),
        // The engine refuses the repository name `sha256`.
        ("sha256@sha256:#", "cannot be a repository name"),
        ("sha256:1@sha256:#", "cannot be a repository name"),
        (
            "docker.io/library/sha256@sha256:#",
            "cannot be a repository name",
        ),
        ("sha256:1=b:1", "cannot be a repository name"),
        // Digests.
        ("a@sha256:", "not of the form"),
        ("a@", "not of the form"),
        ("a@#", "sha256: is missing"),
        (
            "a@sha256:##",
            "has 64 hexadecimal digits, but this digest has 128",
        ),
        (
            "a@sha512:#",
            "has 128 hexadecimal digits, but this digest has 64",
        ),
        ("a@sha256:#0", "but this digest has 65"),
        (
            "a@md5:abababababababababababababababab",
            "\"md5\" is not supported",
        ),
        ("a@SHA256:#", "lower case"),
        ("a@sha256:#@sha256:#", "hexadecimal digits"),
        // A claim with two equal signs.
        ("a:1=b:2=c:3", "right of \"=\""),
        ("a:1==b:2", "right of \"=\""),
        ("a@sha256:#=b:1=", "right of \"=\""),
        // The right side.
        ("a:1=sha256:", "1 to 64 hexadecimal digits"),
        ("a:1=sha256:CAFE", "1 to 64 hexadecimal digits"),
        ("a:1=sha256:xyz", "1 to 64 hexadecimal digits"),
        ("a:1=sha256:#0", "1 to 64 hexadecimal digits"),
        ("a:1=sha256:cafe ", "spaces"),
        ("a:1=B:1", "right of \"=\""),
        ("a:1=b:1@sha256:#0", "right of \"=\""),
        ("a:1=sha512:", "right of \"=\""),
        // Names.
        ("A:1=b:1", "lower-case"),
        ("x/A@sha256:#", "lower-case"),
        ("a:1 =b:1", "\"1 \" is not a tag"),
        (" a:1=b:1", "spaces"),
        ("a\n:1=b:1", "not a repository name"),
        ("a:1\u{1b}[2J=b:1", "is not a tag"),
        ("a:1=b:1\0", "is not a tag"),
        ("ä:1=b:1", "a name cannot have the character"),
        ("a:ä=b:1", "a name cannot have the character"),
        ("-a:1=b:1", "not a repository name"),
        ("http://a:1=b:1", ""),
        ("a:=b:1", "is not a tag"),
        (long_name.as_str(), "at most 255"),
        (long_tag.as_str(), "is not a tag"),
        (megabyte.as_str(), ""),
    ];
    for (pattern, problem) in table {
        let text = spelled(pattern);
        let said = text.parse::<Claim>().unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("{text:?} is not a claim: ")),
            "{said}"
        );
        assert!(said.contains(problem), "{text:?}: {said}");
        assert!(!said.contains(char::is_control), "{said:?}");
    }
}

#[test]
fn upper_case_digits_are_no_digest() {
    let digest = format!("a@sha256:{}", HEX.to_uppercase());
    assert!(digest.parse::<Claim>().is_err());
    assert!(
        format!("a:1={}", HEX.to_uppercase())
            .parse::<Claim>()
            .is_err()
    );
    assert!(
        format!("a:1=sha256:{}", HEX.to_uppercase())
            .parse::<Claim>()
            .is_err()
    );
}

#[test]
fn a_pointer_is_one_tag_or_one_digest() {
    for (pattern, expected) in [
        ("a", "a:latest"),
        ("a:1", "a:1"),
        ("a@sha256:#", "a@sha256:#"),
        ("a:1@sha256:#", "a@sha256:#"),
    ] {
        assert_eq!(
            pointer(&spelled(pattern)).unwrap().familiar(),
            spelled(expected)
        );
    }
    assert!(pointer(HEX).is_err());
}

#[test]
fn a_row_that_was_pasted() {
    let id = &HEX[..12];
    for (row, expected, origin) in [
        (
            format!("a/b   1   sha256:#   {id}   2 weeks ago   12MB").replace("#", &"d".repeat(64)),
            format!("a/b@sha256:{} is prefix {id}", "d".repeat(64)),
            Origin::Pasted,
        ),
        (
            format!("a:1 sha256:{}", "d".repeat(64)),
            format!("a:1 has a@sha256:{}", "d".repeat(64)),
            Origin::Typed,
        ),
        (
            format!("docker-pullable://a@sha256:{}", "d".repeat(64)),
            format!("only a@sha256:{}", "d".repeat(64)),
            Origin::Typed,
        ),
    ] {
        let claim: Claim = row.parse().unwrap();
        assert_eq!(summary(&claim.statement), expected, "{row}");
        assert_eq!((claim.text, claim.origin), (row, origin));
    }
    assert!("pulled layer sha256:1".parse::<Claim>().is_err());
}
