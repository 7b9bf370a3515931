//! A bill of materials in CycloneDX 1.5: digestfix and every crate that is
//! part of the program or, as a macro, writes parts of it, with its licence, its
//! checksum and what it needs.
//! Without a time and a serial number, so that one commit has one SBOM.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::{Value, json};

const ROOT: &str = "digestfix";

/// What `cargo metadata` prints, as far as it is used here.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

/// `null` is a dependency of the program; others are of its build and tests.
#[derive(Debug, Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// The SBOM.
pub fn of(metadata: &Metadata, lock: &str) -> Result<Value, String> {
    let packages: HashMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let needs: HashMap<&str, Vec<&str>> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), linked(node)))
        .collect();
    let root = metadata
        .packages
        .iter()
        .find(|package| package.name == ROOT)
        .ok_or("there is no package digestfix")?;
    let mut parts = BTreeMap::new();
    let mut todo = vec![root.id.as_str()];
    while let Some(id) = todo.pop() {
        let package = packages.get(id).ok_or_else(|| format!("what is {id}?"))?;
        if parts.insert(purl(package), *package).is_none() {
            todo.extend(needs.get(id).into_iter().flatten());
        }
    }
    let sums = checksums(lock);
    let components: Vec<Value> = parts
        .values()
        .filter(|package| package.id != root.id)
        .map(|package| component("library", package, &sums))
        .collect();
    let dependencies: Vec<Value> = parts
        .iter()
        .map(|(purl_of_one, package)| {
            let needed: BTreeSet<String> = needs
                .get(package.id.as_str())
                .into_iter()
                .flatten()
                .filter_map(|id| packages.get(id).map(|package| purl(package)))
                .collect();
            json!({"ref": purl_of_one, "dependsOn": needed})
        })
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component("application", root, &sums)},
        "components": components,
        "dependencies": dependencies,
    }))
}

fn linked(node: &Node) -> Vec<&str> {
    node.deps
        .iter()
        .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()))
        .map(|dependency| dependency.pkg.as_str())
        .collect()
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn component(kind: &str, package: &Package, sums: &HashMap<(&str, &str), &str>) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": purl(package),
        "purl": purl(package),
        "name": package.name,
        "version": package.version,
    });
    if let Some(text) = &package.description {
        component["description"] = json!(text.trim());
    }
    if let Some(license) = &package.license {
        // An older way of writing OR.
        let expression = license.replace('/', " OR ");
        component["licenses"] = json!([{"expression": expression}]);
    }
    if let Some(sum) = sums.get(&(package.name.as_str(), package.version.as_str())) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
    }
    component
}

/// Cargo.lock's checksums, by name and version.
fn checksums(lock: &str) -> HashMap<(&str, &str), &str> {
    lock.split("[[package]]")
        .filter_map(|package| {
            let value = |key: &str| {
                package.lines().find_map(|line| {
                    let value = line.strip_prefix(key)?.strip_prefix(" = \"")?;
                    value.strip_suffix('"')
                })
            };
            Some(((value("name")?, value("version")?), value("checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail so")]

    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_nothing_else() {
        let package = |name: &str| {
            json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                "description": null})
        };
        let dependency =
            |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let packages = ["digestfix", "used", "deeper", "tested", "other"].map(package);
        let metadata = json!({
            "packages": packages,
            "resolve": {"nodes": [
                {"id": "digestfix", "deps": [dependency("used", None), dependency("tested", Some("dev"))]},
                {"id": "used", "deps": [dependency("deeper", None)]},
                {"id": "deeper", "deps": []},
                {"id": "tested", "deps": []},
                {"id": "other", "deps": [dependency("digestfix", None)]},
            ]}
        });
        let lock = "[[package]]\nname = \"used\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n";

        let sbom = of(&serde_json::from_value(metadata).unwrap(), lock).unwrap();

        let names: Vec<&str> = sbom["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| component["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["deeper", "used"]);
        assert_eq!(sbom["components"][1]["hashes"][0]["content"], "abc");
        assert_eq!(
            sbom["components"][0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(
            sbom["dependencies"][1],
            json!({"ref": "pkg:cargo/digestfix@1.0.0", "dependsOn": ["pkg:cargo/used@1.0.0"]})
        );
    }
}
