//! install/install.sh and install/uninstall.sh (SPEC 10).

use crate::support::Host;

const PROGRAM: &str = "/usr/local/bin/runns-exec";

#[test]
fn program_has_owner_mode_and_capabilities() {
    let host = Host::new();
    assert_eq!(host.ok(&format!("stat -c '%U:%G %a' {PROGRAM}")), "root:runns 750");
    assert_eq!(host.ok(&format!("getcap {PROGRAM}")), format!("{PROGRAM} cap_net_admin,cap_sys_admin=p"));
}
