//! Tests the whole program on real machines with systemd, dockerd and a registry.
//! Requires root. `tests/lab/prepare` builds the systems that the machines boot.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod bus;
mod carry;
mod containerd;
mod containers;
mod doctor;
mod failures;
mod file_systems;
mod fleet;
mod history;
mod interrupted;
mod load;
mod loopback;
#[allow(dead_code, reason = "the fault injection reboots them, too")]
mod machine;
mod neighbours;
mod node;
mod observed;
mod old_systemd;
mod packages;
mod readme;
mod refusals;
mod repair;
mod rootless;
mod save;
mod shapes;
mod sources;
mod terminal;
mod units;
