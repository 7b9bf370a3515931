//! The cost of digestfix for inputs of different sizes, next to other programs that do
//! the same work.
//!
//! `benches/run` installs these programs and runs this benchmark. benches/README.md
//! explains each row of the table.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]

mod add;
mod archive;
mod contest;
mod engine;
mod growth;
mod host;
#[allow(dead_code, reason = "the lab's machines are used here in part")]
#[path = "../../tests/lab/machine.rs"]
mod machine;
mod measure;
mod nothing;
mod peers;
mod pins;
mod status;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

use contest::Effort;
use growth::Growth;
use peers::Peers;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// One digest more in the reference store
    Add,
    /// Every image with its digests
    Status,
    /// Claims that hold already
    Nothing,
    /// Both of these on a machine of the lab, where Docker runs
    Engine,
    /// Pins in Kubernetes YAML
    Pins,
    /// OCI archives
    Archive,
}

/// What digestfix costs at any size, beside other programs that do the same.
#[derive(Debug, Parser)]
struct Options {
    /// The rows to measure; all of them if none is named.
    rows: Vec<Row>,
    /// Fewer rounds, and no more than 100,000 references unless they are named.
    #[arg(long)]
    quick: bool,
    /// The numbers of references.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,100000,1000000")]
    #[arg(default_value_if("quick", "true", "10,1000,100000"))]
    sizes: Vec<usize>,
    /// The program to measure, instead of one that cargo builds.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Another build of it, to take turns with.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Where inputs are kept, to be used again; target/bench unless it is given.
    /// What is measured is done on this file system.
    #[arg(long)]
    inputs: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == measure::MEASURE) {
        return measure::measure(&words[1..]);
    }
    let options = Options::parse();
    let inputs = options
        .inputs
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench"));
    fs::create_dir_all(&inputs).unwrap();
    let inputs = fs::canonicalize(inputs).unwrap();
    let built = Path::new(env!("CARGO_BIN_EXE_digestfix"));
    let peers = Peers::find(
        options.program.as_deref().unwrap_or(built),
        options.beside.as_deref(),
        inputs,
    );
    let effort = Effort {
        quick: options.quick,
    };
    let asked = |row: Row| options.rows.is_empty() || options.rows.contains(&row);
    let mut growth = Growth::default();
    if asked(Row::Add) {
        add::run(&peers, effort, &options.sizes, &mut growth);
    }
    if asked(Row::Status) {
        status::run(&peers, effort, &options.sizes, &mut growth);
    }
    if asked(Row::Nothing) {
        nothing::run(&peers, effort, &options.sizes, &mut growth);
    }
    if asked(Row::Engine) {
        engine::run(&peers, effort, &options.sizes);
    }
    if asked(Row::Pins) {
        pins::run(&peers, effort, &options.sizes, &mut growth);
    }
    if asked(Row::Archive) {
        archive::run(&peers, effort);
    }
    growth.print();
}
