//! `digestfix hold-ports`, which [`outside`] has systemd run for an apply that
//! is in a sandbox.

use std::io;

use crate::cli::HoldPortsArgs;
use crate::printable::printable;
use crate::report::Exit;
use crate::transaction::restart::ports::outside;

pub(super) fn run(args: &HoldPortsArgs) -> Exit {
    match outside::hand_over(io::stdin(), &args.addresses) {
        Ok(()) => Exit::Done,
        Err(error) => {
            let error = error.to_string();
            eprintln!(
                "digestfix: failed: the table could not be handed over: {}",
                printable(&error)
            );
            Exit::Failed
        }
    }
}
