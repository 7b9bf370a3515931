//! `docker-digestfix docker-cli-plugin-metadata`: the command by which Docker's command
//! line asks a plugin for its description (docker/cli `cli-plugins/metadata`).

use serde_json::json;

use crate::report::output::Output;
use crate::report::run_result::RunResult;

pub(super) fn run() -> RunResult {
    let metadata = json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "digestfix",
        "Version": env!("CARGO_PKG_VERSION"),
        "ShortDescription": "Keep and restore the registry digests of images",
    });
    match Output::of_process().deliver(format!("{metadata}\n")) {
        Ok(()) => RunResult::Done,
        Err(_) => RunResult::Failed,
    }
}
