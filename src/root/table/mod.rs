//! The texts of our nftables tables: pure functions of facts. A rule is stated here and nowhere
//! else.

pub mod host;
pub mod inside;
pub mod load;

#[cfg(test)]
pub mod golden;

use std::net::IpAddr;

use ipnet::IpNet;

use runns_shared::exceptions::Port;

/// An address or network as an element of a set, which has one family.
struct Element {
    is_v4: bool,
    text: String,
}

impl Element {
    fn addresses(addresses: &[IpAddr]) -> Vec<Self> {
        addresses
            .iter()
            .map(|address| Self {
                is_v4: address.is_ipv4(),
                text: address.to_string(),
            })
            .collect()
    }

    fn networks(networks: &[IpNet]) -> Vec<Self> {
        networks
            .iter()
            .map(|network| Self {
                is_v4: network.addr().is_ipv4(),
                text: network.to_string(),
            })
            .collect()
    }

    /// Those of a family.
    fn of_family(elements: Vec<Self>, is_v4: bool) -> Vec<String> {
        elements
            .into_iter()
            .filter(|element| element.is_v4 == is_v4)
            .map(|element| element.text)
            .collect()
    }
}

/// A port as an element of a set.
fn port_element(port: &Port) -> String {
    format!("{} . {}", port.protocol, port.number)
}

/// The name of an interface, which has been checked to contain nothing that ends a string.
fn quoted(interface: impl std::fmt::Display) -> String {
    format!("\"{interface}\"")
}
