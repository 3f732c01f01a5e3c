//! What `build` prints when it has built a namespace.

use crate::facts::{exceptions, resolver};
use crate::walk;
use runns_shared::escape::{escape, one_line, show};
use runns_shared::name::{NetnsName, RESERVED};
use runns_shared::plan::Plan;
use runns_shared::tunnel::TunnelState;

/// The parts of a plan, a line each.
pub fn parts(plan: &Plan) -> Vec<String> {
    walk::all()
        .iter()
        .filter(|part| part.is_in(plan))
        .filter_map(|part| part.describe(plan))
        .collect()
}

/// What `--dry-run` prints of the parts.
pub fn planned(plan: &Plan) -> String {
    let line = |part: &String| format!("  {}\n", one_line(part));
    let lines: String = parts(plan).iter().map(line).collect();
    format!("would build {}:\n{lines}", plan.name)
}

/// Two lines: what was built, and what to type next.
pub fn built(plan: &Plan) -> String {
    let name = &plan.name;
    let section = plan.request.section.as_deref();
    let section = section.filter(|section| !section.eq_ignore_ascii_case(name.as_str()));
    let title = section.map_or(name.to_string(), |section| escape(section.as_bytes()));
    let states: Vec<TunnelState> = (0..plan.request.tunnels().count())
        .map(|index| TunnelState::load(name, index))
        .collect();
    let verb = match states.iter().all(|state| state.up) {
        true => "up",
        false => "built, but not connected yet",
    };
    let mut details: Vec<String> = section.map(|_| name.to_string()).into_iter().collect();
    details.extend(reached(plan));
    details.extend(tunnels(plan, &states));
    details.push(dns(plan));
    if plan.request.has_tunnel() {
        let switch = if plan.request.kill_switch {
            "on"
        } else {
            "off"
        };
        details.push(format!("kill switch {switch}"));
    }
    details.extend(exceptions::opened(plan));
    let details = details.join(", ");
    format!(
        "{title} is {verb}: {details}\nrun a program in it: {}\n",
        command(name)
    )
}

/// Its address on the veth and its uplink, if it has them.
fn reached(plan: &Plan) -> Vec<String> {
    let request = &plan.request;
    let address = request.has_veth().then(|| plan.subnet().inside());
    let uplink = request.uplink.as_ref();
    let uplink = uplink.map(|uplink| format!("uplink {uplink} only"));
    let address = address.map(|address| address.to_string());
    address.into_iter().chain(uplink).collect()
}

/// The devices of tunnels that are up, the files of the others.
fn tunnels(plan: &Plan, states: &[TunnelState]) -> Vec<String> {
    let tunnel = |(file, state): (_, &TunnelState)| match state.device.as_str() {
        "" => show(file),
        device => escape(device.as_bytes()),
    };
    plan.request.tunnels().zip(states).map(tunnel).collect()
}

fn dns(plan: &Plan) -> String {
    let servers = resolver::current(plan).map(|resolver| resolver.servers);
    match servers.filter(|servers| !servers.is_empty()) {
        Some(servers) => {
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            format!("DNS {}", servers.join(" "))
        }
        None => "DNS of the host".to_string(),
    }
}

/// How to run a command in it.
fn command(name: &NetnsName) -> String {
    let exec = match RESERVED.contains(&name.as_str()) {
        true => "exec ",
        false => "",
    };
    format!("runns-exec {exec}{name} -- COMMAND")
}
