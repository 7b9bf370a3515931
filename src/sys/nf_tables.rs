//! nf_tables over netlink: creates one small table in the kernel's packet filter.
//!
//! `linux/netfilter/nf_tables.h` defines the messages, and `linux/netfilter/nfnetlink.h`
//! defines a batch of messages. The table's owner is the socket that created it
//! (`NFT_TABLE_F_OWNER`, Linux 5.12). No other process can change the table. The kernel
//! removes the table when the socket is closed, even if the process is killed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;
const HEADER_BYTES: usize = 16;

// linux/netfilter/nfnetlink.h, linux/netfilter.h
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

// linux/netfilter/nf_tables.h
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_TABLE_F_OWNER: u32 = 0x2;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_CMP_EQ: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
const NFT_SOCKET_TRANSPARENT: u32 = 0;
const NFT_JUMP: u32 = (-3_i32).cast_unsigned();

// linux/netfilter/nf_conntrack_common.h
const IPS_DST_NAT: u32 = 1 << 5;

/// The point in the kernel's packet processing at which packets enter a chain.
#[derive(Debug, Clone, Copy)]
pub enum Hook {
    Input,
    Output,
}

/// Metadata of a packet, which the packet's bytes do not contain.
#[derive(Debug, Clone, Copy)]
pub enum Meta {
    /// The number of the interface through which the packet leaves, in host byte order.
    OutInterface = 5,
    /// IPv4 or IPv6, as one byte.
    Family = 15,
    /// The transport protocol, as one byte.
    Protocol = 16,
}

/// A header of a packet.
#[derive(Debug, Clone, Copy)]
pub enum Header {
    /// IPv4 or IPv6.
    Network = 1,
    /// TCP.
    Transport = 2,
}

/// A table that is not in the kernel yet, as a batch of messages.
#[derive(Debug)]
pub struct Table {
    name: String,
    batch: Vec<u8>,
}

/// The expressions of a rule. The rule applies to a packet that matches all expressions.
#[derive(Debug, Default)]
pub struct Rule(Vec<u8>);

impl Table {
    /// A table for IPv4 and IPv6 (family `inet`).
    pub fn new(name: &str) -> Self {
        let mut table = Self {
            name: name.to_owned(),
            batch: Vec::new(),
        };
        control(&mut table.batch, NFNL_MSG_BATCH_BEGIN);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        message(&mut table.batch, NFT_MSG_NEWTABLE, flags, |message| {
            string(message, 1, name); // NFTA_TABLE_NAME
            number(message, 2, NFT_TABLE_F_OWNER); // NFTA_TABLE_FLAGS
        });
        table
    }

    /// Adds a chain. If `base` is a hook and a priority, packets enter the chain at this
    /// hook. If `base` is `None`, only packets that a rule sends to the chain enter it.
    pub fn chain(&mut self, name: &str, base: Option<(Hook, i32)>) {
        let table = self.name.clone();
        message(&mut self.batch, NFT_MSG_NEWCHAIN, NLM_F_CREATE, |chain| {
            string(chain, 1, &table); // NFTA_CHAIN_TABLE
            string(chain, 3, name); // NFTA_CHAIN_NAME
            let Some((hook, priority)) = base else {
                return;
            };
            let hook = match hook {
                Hook::Input => 1,  // NF_INET_LOCAL_IN
                Hook::Output => 3, // NF_INET_LOCAL_OUT
            };
            string(chain, 7, "filter"); // NFTA_CHAIN_TYPE
            number(chain, 5, NF_ACCEPT); // NFTA_CHAIN_POLICY
            nested(chain, 4, |place| {
                number(place, 1, hook); // NFTA_HOOK_HOOKNUM
                number(place, 2, priority.cast_unsigned()); // NFTA_HOOK_PRIORITY
            });
        });
    }

    pub fn rule(&mut self, chain: &str, rule: &Rule) {
        let table = self.name.clone();
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        message(&mut self.batch, NFT_MSG_NEWRULE, flags, |message| {
            string(message, 1, &table); // NFTA_RULE_TABLE
            string(message, 2, chain); // NFTA_RULE_CHAIN
            nested(message, 4, |list| list.extend(&rule.0)); // NFTA_RULE_EXPRESSIONS
        });
    }

    /// Creates the whole table at once. The table exists until the returned socket is
    /// closed. Fails with `EPERM` if the process lacks the privilege, and with
    /// `EOPNOTSUPP` if the kernel lacks nf_tables or owned tables.
    pub fn create(mut self) -> io::Result<OwnedFd> {
        // Only the last message requests an answer, because answers to all messages could
        // overflow the socket's buffer.
        let table = self.name.clone();
        let flags = NLM_F_CREATE | NLM_F_ACK;
        message(&mut self.batch, NFT_MSG_NEWCHAIN, flags, |chain| {
            string(chain, 1, &table); // NFTA_CHAIN_TABLE
            string(chain, 3, "end"); // NFTA_CHAIN_NAME
        });
        control(&mut self.batch, NFNL_MSG_BATCH_END);
        // Close the socket on exec, because the table would stay as long as a child
        // process kept the socket open.
        let owner = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        // The whole batch has to be sent in one datagram.
        setsockopt(&owner, sockopt::SndBufForce, &self.batch.len())?;
        send(owner.as_raw_fd(), &self.batch, MsgFlags::empty())?;
        let mut answer = [0; 65536];
        loop {
            // The kernel has already answered when `send` returns.
            match recv(owner.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => match outcome(&answer[..length]) {
                    None => {}
                    Some(0) => return Ok(owner),
                    Some(error) => return Err(io::Error::from_raw_os_error(-error)),
                },
                Err(Errno::EAGAIN) => return Err(io::Error::other("the kernel does not answer")),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Rule {
    /// A rule that matches any packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Matches packets with this metadata.
    pub fn meta(mut self, key: Meta, expected: &[u8]) -> Self {
        expression(&mut self.0, "meta", |load| {
            number(load, 1, NFT_REG_1); // NFTA_META_DREG
            number(load, 2, key as u32); // NFTA_META_KEY
        });
        self.compare(expected)
    }

    /// Matches packets whose header has these bytes at `offset`.
    pub fn header(mut self, header: Header, offset: u32, expected: &[u8]) -> Self {
        self.load(header, offset, expected.len());
        self.compare(expected)
    }

    /// Matches packets by one byte of a header. The byte is at `offset`, and its bits in
    /// `mask` must equal `expected`.
    pub fn bits(mut self, header: Header, offset: u32, mask: u8, expected: u8) -> Self {
        self.load(header, offset, 1);
        self.mask(&[mask]);
        self.compare(&[expected])
    }

    /// Matches packets that belong to a connection whose destination was not translated.
    pub fn untranslated(mut self) -> Self {
        expression(&mut self.0, "ct", |load| {
            number(load, 1, NFT_REG_1); // NFTA_CT_DREG
            number(load, 2, NFT_CT_STATUS); // NFTA_CT_KEY
        });
        self.mask(&IPS_DST_NAT.to_ne_bytes());
        self.compare(&[0; 4])
    }

    /// Matches packets for which this host has a socket.
    pub fn listened(mut self) -> Self {
        expression(&mut self.0, "socket", |load| {
            number(load, 1, NFT_SOCKET_TRANSPARENT); // NFTA_SOCKET_KEY
            number(load, 2, NFT_REG_1); // NFTA_SOCKET_DREG
        });
        self
    }

    /// Accepts the packet in this table. Other tables may still drop the packet.
    pub fn accepts(self) -> Self {
        self.verdict(NF_ACCEPT, None)
    }

    pub fn drops(self) -> Self {
        self.verdict(NF_DROP, None)
    }

    pub fn jumps(self, chain: &str) -> Self {
        self.verdict(NFT_JUMP, Some(chain))
    }

    fn load(&mut self, header: Header, offset: u32, length: usize) {
        expression(&mut self.0, "payload", |load| {
            number(load, 1, NFT_REG_1); // NFTA_PAYLOAD_DREG
            number(load, 2, header as u32); // NFTA_PAYLOAD_BASE
            number(load, 3, offset); // NFTA_PAYLOAD_OFFSET
            number(load, 4, u32::try_from(length).unwrap_or(u32::MAX)); // NFTA_PAYLOAD_LEN
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        expression(&mut self.0, "bitwise", |bits| {
            number(bits, 1, NFT_REG_1); // NFTA_BITWISE_SREG
            number(bits, 2, NFT_REG_1); // NFTA_BITWISE_DREG
            number(bits, 3, u32::try_from(mask.len()).unwrap_or(u32::MAX)); // NFTA_BITWISE_LEN
            value(bits, 4, mask); // NFTA_BITWISE_MASK
            value(bits, 5, &vec![0; mask.len()]); // NFTA_BITWISE_XOR
        });
    }

    fn compare(mut self, expected: &[u8]) -> Self {
        expression(&mut self.0, "cmp", |test| {
            number(test, 1, NFT_REG_1); // NFTA_CMP_SREG
            number(test, 2, NFT_CMP_EQ); // NFTA_CMP_OP
            value(test, 3, expected); // NFTA_CMP_DATA
        });
        self
    }

    fn verdict(mut self, code: u32, chain: Option<&str>) -> Self {
        expression(&mut self.0, "immediate", |immediate| {
            number(immediate, 1, NFT_REG_VERDICT); // NFTA_IMMEDIATE_DREG
            nested(immediate, 2, |data| {
                nested(data, 2, |verdict| {
                    number(verdict, 1, code); // NFTA_VERDICT_CODE
                    if let Some(chain) = chain {
                        string(verdict, 2, chain); // NFTA_VERDICT_CHAIN
                    }
                });
            });
        });
        self
    }
}

/// The result in the kernel's answer: 0 for success, or a negative error number.
fn outcome(mut answer: &[u8]) -> Option<i32> {
    while answer.len() >= HEADER_BYTES + 4 {
        let length = u32::from_ne_bytes(answer[..4].try_into().ok()?);
        if u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
            let error = answer[HEADER_BYTES..HEADER_BYTES + 4].try_into().ok()?;
            return Some(i32::from_ne_bytes(error));
        }
        let length = usize::try_from(length).ok()?.max(HEADER_BYTES);
        answer = answer.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn expression(list: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nested(list, 1, |element| {
        string(element, 1, name); // NFTA_EXPR_NAME
        nested(element, 2, data); // NFTA_EXPR_DATA
    });
}

fn value(to: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    nested(to, kind, |data| attribute(data, 1, |to| to.extend(bytes))); // NFTA_DATA_VALUE
}

fn nested(to: &mut Vec<u8>, kind: u16, content: impl FnOnce(&mut Vec<u8>)) {
    attribute(to, kind | NLA_F_NESTED, content);
}

fn number(to: &mut Vec<u8>, kind: u16, number: u32) {
    attribute(to, kind, |to| to.extend(number.to_be_bytes()));
}

fn string(to: &mut Vec<u8>, kind: u16, text: &str) {
    attribute(to, kind, |to| {
        to.extend(text.as_bytes());
        to.push(0);
    });
}

/// Writes a `struct nlattr`: length and type, then the content, padded to a multiple of
/// four bytes.
fn attribute(to: &mut Vec<u8>, kind: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend([0; 2]);
    to.extend(kind.to_ne_bytes());
    content(to);
    let length = to.len() - start;
    let written = u16::try_from(length).unwrap_or(u16::MAX);
    to[start..start + 2].copy_from_slice(&written.to_ne_bytes());
    to.resize(start + length.next_multiple_of(4), 0);
}

/// Writes a message of nf_tables for the family `inet`.
fn message(batch: &mut Vec<u8>, kind: u16, flags: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    netlink(batch, kind, flags, NFPROTO_INET, 0, content);
}

/// Writes the message that begins or ends a batch.
fn control(batch: &mut Vec<u8>, kind: u16) {
    netlink(batch, kind, 0, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES, |_| ());
}

/// Writes a `struct nlmsghdr` (length, type, flags, sequence, sender), a `struct
/// nfgenmsg` (family, version 0, resource) and the attributes.
fn netlink(
    batch: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    family: u8,
    resource: u16,
    content: impl FnOnce(&mut Vec<u8>),
) {
    let start = batch.len();
    batch.extend([0; 4]);
    batch.extend(kind.to_ne_bytes());
    batch.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    batch.extend([0; 8]);
    batch.extend([family, 0]);
    batch.extend(resource.to_be_bytes());
    content(batch);
    let length = u32::try_from(batch.len() - start).unwrap_or(u32::MAX);
    batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Checks that the length of each message is right, and that the attributes fill the
    /// message exactly.
    #[test]
    fn a_batch_is_made_of_whole_messages() {
        let mut table = Table::new("test");
        table.chain("plain", None);
        table.chain("input", Some((Hook::Input, -150)));
        let rule = Rule::new()
            .meta(Meta::Protocol, &[6])
            .header(Header::Transport, 2, &[0x1f, 0x90])
            .bits(Header::Transport, 13, 0x17, 0x02)
            .jumps("plain");
        table.rule("input", &rule);
        let mut rest = table.batch.as_slice();
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            kinds.push(u16::from_ne_bytes([rest[4], rest[5]]));
            let mut attributes = &rest[HEADER_BYTES + 4..length];
            while !attributes.is_empty() {
                let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
                assert!(length >= 4 && length <= attributes.len());
                attributes = &attributes[length.next_multiple_of(4)..];
            }
            rest = &rest[length..];
        }
        assert_eq!(kinds, [0x10, 0x0a00, 0x0a03, 0x0a03, 0x0a06]);
    }

    #[test]
    fn the_kernels_answer_is_read() {
        let answer = |kind: u16, error: i32| {
            let mut bytes = 20_u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(error.to_ne_bytes());
            bytes
        };
        assert_eq!(outcome(&answer(NLMSG_ERROR, 0)), Some(0));
        assert_eq!(outcome(&answer(NLMSG_ERROR, -1)), Some(-1));
        let second = [answer(3, 7), answer(NLMSG_ERROR, -95)].concat();
        assert_eq!(outcome(&second), Some(-95));
        assert_eq!(outcome(&answer(3, 7)), None);
        assert_eq!(outcome(&[0; 40]), None);
        assert_eq!(outcome(&[1; 7]), None);
    }
}
