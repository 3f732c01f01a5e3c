//! One question to nftables that nft(8) has no output for: the generation of the ruleset
//! (linux/netfilter/nf_tables.h).

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use std::os::fd::AsRawFd;

/// NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN
const GET_GENERATION: u16 = 10 << 8 | 16;
/// NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN
const GENERATION: u16 = 10 << 8 | 15;
/// NLM_F_REQUEST
const REQUEST: u16 = 1;
/// NFTA_GEN_ID
const ID: u16 = 1;
/// Bytes of nlmsghdr and nfgenmsg.
const HEADERS: usize = 20;

/// The generation of the nftables ruleset of the calling thread's network namespace; `None` if the
/// kernel does not say.
pub fn generation_here() -> Option<u64> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkNetFilter,
    )
    .ok()?;
    let mut request = Vec::with_capacity(HEADERS);
    request.extend((HEADERS as u32).to_ne_bytes());
    request.extend(GET_GENERATION.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    // Sequence number and port; then any family, version 0, no resource.
    request.extend([0; 12]);
    send(socket.as_raw_fd(), &request, MsgFlags::empty()).ok()?;
    let mut answer = [0; 512];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    parse(answer.get(..length)?)
}

/// The attribute ID of the answer: its length and type, both in the host's byte order, then the
/// number in that of the network; padded to four bytes.
fn parse(answer: &[u8]) -> Option<u64> {
    if answer.get(4..6)? != GENERATION.to_ne_bytes() {
        return None;
    }
    let mut rest = answer.get(HEADERS..)?;
    loop {
        let field = |at: usize| Some(u16::from_ne_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
        let (length, kind) = (usize::from(field(0)?), field(2)?);
        let value = rest.get(4..length)?;
        if kind == ID {
            return Some(u32::from_be_bytes(value.try_into().ok()?).into());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let answer = |attributes: &[Vec<u8>]| {
            let mut headers = [0; HEADERS];
            headers[4..6].copy_from_slice(&GENERATION.to_ne_bytes());
            [&headers[..], &attributes.concat()].concat()
        };
        assert_eq!(
            parse(&answer(&[
                attribute(3, b"nft"),
                attribute(ID, &[0, 0, 1, 2])
            ])),
            Some(258)
        );
        assert_eq!(parse(&answer(&[attribute(3, b"nft")])), None);
        assert_eq!(parse(&answer(&[vec![0; 4]])), None);
        assert_eq!(
            (parse(&[0; 7]), parse(&[0; 40])),
            (None, None),
            "an error is no answer"
        );
    }
}
