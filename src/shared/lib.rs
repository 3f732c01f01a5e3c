//! What both programs know. Data, and reading it; nothing here changes the system.
//!
//! | module | what it knows |
//! |---|---|
//! | [`error`], [`escape`], [`output`], [`suggest`], [`log`] | messages: what failed, untrusted bytes, stdout and stderr, near misses, syslog |
//! | [`name`] | names of namespaces and interfaces, checked once |
//! | [`trusted`] | files that only root can have written |
//! | [`account`], [`access`] | users and groups without NSS; who is on a list |
//! | [`config`] | /etc/runns.conf |
//! | [`plan`], [`record`], [`tunnel`], [`json`] | what a namespace consists of, as planned, as built, and how its tunnels are |
//! | [`request`], [`exceptions`], [`subnet`] | what is asked for; published ports, access to the host, what bypasses a tunnel; subnets of veth pairs |
//! | [`hosts`] | the hosts file of a namespace |
//! | [`resolv_conf`] | name servers and the modules of nsswitch.conf |
//! | [`proc`], [`clock`] | other processes, by /proc; wall-clock time |
//! | [`inside`] | what a namespace shows of itself to a process inside |
//! | [`handed_over`], [`listed`] | what runns-exec hands over to the program for root |

#![forbid(unsafe_code)]

pub mod access;
pub mod account;
pub mod clock;
pub mod config;
pub mod error;
pub mod escape;
pub mod exceptions;
pub mod handed_over;
pub mod hosts;
pub mod inside;
pub mod json;
pub mod listed;
pub mod log;
pub mod name;
pub mod output;
pub mod plan;
pub mod proc;
pub mod record;
pub mod request;
pub mod resolv_conf;
pub mod subnet;
pub mod suggest;
pub mod trusted;
pub mod tunnel;
