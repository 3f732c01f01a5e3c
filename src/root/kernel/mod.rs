//! What the kernel and the programs of the system offer. These modules know no namespace of ours,
//! and import nothing of this crate but each other.

pub mod daemon;
pub mod denial;
pub mod file;
pub mod iptables;
pub mod netlink;
pub mod nfnetlink;
pub mod nft;
pub mod prompt;
pub mod sysctl;
pub mod syslog;
pub mod text_table;
pub mod tool;
pub mod zone;
