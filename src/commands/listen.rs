//! `digestfix listen`, which [`outside`] has systemd run for an apply that is in a
//! sandbox.

use std::io;

use crate::cli::ListenArgs;
use crate::report::Exit;
use crate::stand_in::outside;

pub(super) fn run(args: &ListenArgs) -> Exit {
    match outside::hand_over(io::stdin(), args.dockerd, &args.addresses) {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("digestfix: failed: nobody takes the sockets: {error}");
            Exit::Failed
        }
    }
}
