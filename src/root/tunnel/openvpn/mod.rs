//! OpenVPN's daemon: started, and heard.

pub mod client;
pub mod start;
