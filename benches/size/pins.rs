//! Measures reading pins in Kubernetes YAML and checking which of them this host has.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::contest::{Answer, Contest, Contestant, Cost, Effort, head};
use crate::growth::Growth;
use crate::host::{Host, Pin, Shape};
use crate::measure::Place;
use crate::peers::{Peers, command, script};

/// The most pins to use, because a directory with claims may contain only this many
/// files.
const PINS: usize = 10_000;

/// For each pin, looks up the image of its tag and whether its digest points at the same
/// image.
const JQ: &str = r#"
  jq -Rr --slurpfile store "$2" '
    split("@") as [$tagged, $digest] | ($tagged | split(":")[:-1] | join(":")) as $name
    | $store[0].Repositories[$name] as $entries | $entries[$tagged] | select(.)
    | "\($name)@\($digest) \(.) \($entries["\($name)@\($digest)"] == .)"'"#;

const YQ: &str = r#"find "$1" -type f -print0 | xargs -0 yq -r '.. | .image? // empty' |
  grep @sha256: | sort -u |"#;

/// Finds pins without parsing YAML.
const GREP: &str = r#"grep -rhoE '[^ "]+@sha256:[0-9a-f]{64}' "$1" | sort -u |"#;

/// Measures a directory with one file for each pin, and one file that contains all pins.
pub fn run(peers: &Peers, effort: Effort, sizes: &[usize], growth: &mut Growth) {
    head("Pins in Kubernetes YAML", false);
    for size in sizes {
        let host = Host::at(&peers.inputs, Shape::Mixed, *size);
        host.reset_at(&Place::here());
        let pins = pins(&host);
        let directory = host.directory.join("yaml");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        let documents: Vec<String> = pins.iter().enumerate().map(document).collect();
        for (at, document) in documents.iter().enumerate() {
            fs::write(directory.join(format!("{at}.yaml")), document).unwrap();
        }
        let file = host.directory.join("all.yaml");
        fs::write(&file, documents.concat()).unwrap();
        for (from, what, named) in [
            (directory, "a file each", format!("{} files", pins.len())),
            (file, "one file", "one file".to_owned()),
        ] {
            let named = format!("{} pins in {named}", pins.len());
            let cost = contest(peers, effort, &host, &from, &named);
            growth.add(&format!("pins in {what}"), *size, cost);
        }
    }
}

fn contest(peers: &Peers, effort: Effort, host: &Host, from: &Path, named: &str) -> Cost {
    let (root, store) = (host.root(), host.store());
    let from = from.to_str().unwrap();
    let words = [
        "plan",
        "--json",
        "--offline",
        "--data-root",
        root.to_str().unwrap(),
        "--from",
        from,
    ];
    let mut contestants = Vec::new();
    for (name, program) in &peers.digestfix {
        contestants.push(Contestant {
            code: 4,
            ..Contestant::new(name, command(program, &words), claims)
        });
    }
    for (name, pipeline) in [("yq, grep, sort, jq", YQ), ("grep, sort, jq", GREP)] {
        let words = script(
            &format!("{pipeline} {JQ}"),
            &[from, store.to_str().unwrap()],
        );
        contestants.push(Contestant::new(name, words, lines));
    }
    Contest {
        place: &Place::here(),
        size: format!("{}, {named}", host.references),
        prepare: None,
        calls: false,
        contestants,
    }
    .run(effort)
}

fn lines(text: &[u8]) -> Answer {
    let mut lines: Answer = String::from_utf8_lossy(text)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

fn claims(text: &[u8]) -> Answer {
    let plan: Value = serde_json::from_slice(text).unwrap();
    let mut claims: Answer = plan["claims"]
        .as_array()
        .unwrap()
        .iter()
        .map(|claim| {
            format!(
                "{} {} {}",
                claim["reference"].as_str().unwrap(),
                claim["image_id"].as_str().unwrap(),
                claim["holds_in_file"]
            )
        })
        .collect();
    claims.sort();
    claims
}

/// Pins for a host. Of ten pins, six are recorded, three are lost digests, and one is for
/// an image that this host does not have.
fn pins(host: &Host) -> Vec<String> {
    let all = (host.references / 10).clamp(5, PINS);
    let part = |pins: &[Pin], tenths: usize| -> Vec<String> {
        let wanted = (all * tenths / 10).max(1);
        let step = (pins.len() / wanted).max(1);
        let pins = pins.iter().step_by(step).take(wanted);
        pins.map(Pin::claim).collect()
    };
    let strangers = part(&host.lost, 1)
        .into_iter()
        .map(|pin| format!("elsewhere.example.com/{pin}"));
    let mut pins = part(&host.held, 6);
    pins.extend(part(&host.lost, 3));
    pins.extend(strangers);
    pins
}

fn document((number, pin): (usize, &String)) -> String {
    format!(
        r#"---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app-{number}
  namespace: production
  labels:
    app.kubernetes.io/name: app-{number}
    app.kubernetes.io/part-of: shop
spec:
  replicas: 3
  selector:
    matchLabels:
      app.kubernetes.io/name: app-{number}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: app-{number}
      annotations:
        prometheus.io/scrape: "true"
    spec:
      serviceAccountName: app
      containers:
        - name: app
          image: "{pin}"
          ports:
            - name: http
              containerPort: 8080
          env:
            - name: LOG_LEVEL
              value: info
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
          resources:
            requests:
              cpu: 100m
              memory: 128Mi
            limits:
              memory: 256Mi
          readinessProbe:
            httpGet:
              path: /ready
              port: http
"#
    )
}
