//! Writes what digestfix's packages have besides the program.
//!
//!     digestfix-generate sbom LOCK <METADATA        an SBOM of what cargo metadata and Cargo.lock say

use std::error::Error;
use std::process::ExitCode;
use std::{env, io};

mod sbom;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("digestfix-generate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sbom", lock] => {
            let lock = std::fs::read_to_string(lock)?;
            let metadata = serde_json::from_reader(io::stdin().lock())?;
            serde_json::to_writer_pretty(io::stdout().lock(), &sbom::of(&metadata, &lock)?)?;
            println!();
        }
        _ => return Err("sbom LOCK <METADATA".into()),
    }
    Ok(())
}
