//! Holds back new connections to published ports while Docker is down.
//!
//! When dockerd stops, its docker-proxy processes end too. When dockerd starts, it
//! removes its packet filter rules and sets them up again. In between, the kernel would
//! refuse a new connection to a published port. Instead, digestfix makes the kernel drop
//! the first packet (TCP's SYN), and the client's kernel sends that packet again a second
//! later. So the connection is late, but not lost.
//!
//! digestfix puts its packet filter rules into a table of its own. These rules do not
//! match packets that another rule has redirected to a container, because the kernel
//! forwards such packets, and forwarded packets do not pass through the table's chains.
//! The kernel removes the table when digestfix ends.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use crate::docker::container::Published;
use crate::sys::nf_tables::{Header, Hook, Meta, Rule, Table};

/// Priority that puts digestfix's rules before the host's own filter rules, which might
/// refuse packets that have to wait.
const BEFORE_FILTER: i32 = -150;

/// Priority that puts digestfix's rules after Docker's own address translation (-100),
/// and before connection tracking records a connection. If connection tracking recorded a
/// connection without translation, the later packets of the connection would not be
/// translated either.
const AFTER_NAT: i32 = 0;

const LOOPBACK: u32 = 1;
const TCP: u8 = 6;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Holds back new connections to these ports until the returned descriptor is closed.
pub fn hold(ports: &BTreeSet<Published>) -> io::Result<OwnedFd> {
    let mut table = incoming("digestfix", None, ports);
    table.chain("output", Some((Hook::Output, AFTER_NAT)));
    let to_itself = Rule::new()
        .meta(Meta::OutInterface, &LOOPBACK.to_ne_bytes())
        .untranslated();
    table.rule("output", &first_packets(to_itself));
    table.create()
}

/// Like [`hold`], but only for ports on which no process listens, because docker-proxy
/// still serves its ports until dockerd ends. Use this function only while Docker stops,
/// and before Docker's address translation is removed. A starting dockerd listens on
/// ports before it serves them.
pub fn hold_unserved(ports: &BTreeSet<Published>) -> io::Result<OwnedFd> {
    let served = Rule::new().listened().accepts();
    incoming("digestfix-stop", Some(served), ports).create()
}

/// A table that drops the first packets of incoming connections to these ports, except
/// the packets that `first` accepts.
fn incoming(name: &str, first: Option<Rule>, ports: &BTreeSet<Published>) -> Table {
    let mut table = Table::new(&format!("{name}-{}", std::process::id()));
    table.chain("ports", None);
    for rule in first.into_iter().chain(ports.iter().map(port)) {
        table.rule("ports", &rule);
    }
    table.chain("input", Some((Hook::Input, BEFORE_FILTER)));
    table.rule("input", &first_packets(Rule::new()));
    table
}

/// Matches the first packet of a connection: of the flags FIN, SYN, RST and ACK, only SYN
/// is set.
fn first_packets(rule: Rule) -> Rule {
    rule.meta(Meta::Protocol, &[TCP])
        .bits(Header::Transport, 13, 0x17, 0x02)
        .jumps("ports")
}

fn port(published: &Published) -> Rule {
    let (family, offset, address) = match published.ip {
        IpAddr::V4(ip) => (IPV4, 16, ip.octets().to_vec()),
        IpAddr::V6(ip) => (IPV6, 24, ip.octets().to_vec()),
    };
    let mut rule = Rule::new().meta(Meta::Family, &[family]);
    if !published.ip.is_unspecified() {
        rule = rule.header(Header::Network, offset, &address);
    }
    rule.header(Header::Transport, 2, &published.port.to_be_bytes())
        .drops()
}
