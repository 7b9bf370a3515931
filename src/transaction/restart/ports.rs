//! New connections to published ports, held back while Docker is away.
//!
//! dockerd takes its docker-proxy processes with it when it stops, and takes down and
//! sets up again its packet filter's rules when it starts. In between, a new connection
//! to a published port would be refused. digestfix has the kernel drop its first packet
//! (TCP's SYN) instead, and the client's kernel sends it again a second later: the
//! connection is late, but not lost.
//!
//! The rules are in digestfix's own table. They match only packets that no other rule has
//! redirected: what is forwarded to a container passes neither chain. The kernel removes
//! the table when the process ends.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use crate::docker::container::Published;
use crate::sys::nf_tables::{Header, Hook, Meta, Rule, Table};

/// Priority before a host's own filter, which might refuse the packets that are to wait.
const BEFORE_FILTER: i32 = -150;

/// Priority after Docker's own address translation (-100), and before connection tracking
/// records a connection that was not translated: a recorded one would not be translated
/// later either.
const AFTER_NAT: i32 = 0;

const LOOPBACK: u32 = 1;
const TCP: u8 = 6;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Holds back new connections until the descriptor that this returns is closed.
pub fn hold(ports: &BTreeSet<Published>) -> io::Result<OwnedFd> {
    let mut table = incoming("digestfix", None, ports);
    table.chain("output", Some((Hook::Output, AFTER_NAT)));
    let to_itself = Rule::new()
        .meta(Meta::OutInterface, &LOOPBACK.to_ne_bytes())
        .untranslated();
    table.rule("output", &first_packets(to_itself));
    table.create()
}

/// Like [`hold`], but only for ports on which no process listens: docker-proxy serves its
/// ports until it ends with dockerd. Only for a Docker that stops: its address
/// translation is still there. A dockerd that starts listens on ports before it serves
/// them.
pub fn hold_unserved(ports: &BTreeSet<Published>) -> io::Result<OwnedFd> {
    let served = Rule::new().listened().accepts();
    incoming("digestfix-stop", Some(served), ports).create()
}

/// A table that drops incoming first packets for these ports, except those that `first`
/// accepts.
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

/// Of the flags FIN, SYN, RST and ACK, the first packet has SYN alone.
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
