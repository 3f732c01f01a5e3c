//! File systems that are full: what build writes is there whole, or not at all (SPEC 6).

use crate::support::{Host, Snapshot};

const MADE: &str = "# Made by runns-exec build";

/// /etc/netns/a has room for this much.
fn with_room(host: &Host, size: &str) {
    host.ok(&format!(
        "umount /etc/netns/a; mkdir -p /etc/netns/a && mount -t tmpfs -o mode=755,size={size} t /etc/netns/a"
    ));
}

#[test]
fn a_full_disk_leaves_no_file() {
    let host = Host::new();
    host.write("/tmp/dns", "nameserver 10.9.9.9\n");
    for (full, file) in [
        ("4k", "nsswitch.conf"),
        ("4k; echo >/etc/netns/a/mine", "resolv.conf"),
    ] {
        with_room(&host, "4k");
        host.ok(&format!("size={full}"));
        let before = Snapshot::of(&host);
        host.run("runns-exec build -n a -r /tmp/dns")
            .refused(1, &[&format!("/etc/netns/a/{file}"), "No space left"]);
        before.assert_same(&Snapshot::of(&host));
        with_room(&host, "1m");
        host.ok("runns-exec build -n a -r /tmp/dns");
        let files = host.ok("cd /etc/netns/a && head -n1 *");
        assert_eq!(files.matches(MADE).count(), 2, "{files}");
        host.ok("runns-exec clean a -f");
    }
}

#[test]
fn neither_does_a_quota_or_a_kill() {
    let host = Host::new();
    host.write("/tmp/dns", "nameserver 10.9.9.9\n");
    host.ok("mkdir -p /etc/netns/a");
    let before = Snapshot::of(&host);
    for file in ["resolv.conf", "nsswitch.conf"] {
        let place = format!("-P /etc/netns/a/{file} -P /etc/netns/a/.{file}~");
        // Some file systems tell at the end only.
        for call in ["write", "close"] {
            let inject =
                format!("strace -f -qq -o /dev/null {place} -e inject={call}:error=EDQUOT");
            let built = host.run(&format!("{inject} runns-exec build -n a -r /tmp/dns"));
            built.refused(1, &[&format!("/etc/netns/a/{file}"), "quota exceeded"]);
            before.assert_same(&Snapshot::of(&host));
        }
        for call in ["openat", "write", "rename"] {
            let killed = format!("strace -f -qq -o /dev/null {place} -e inject={call}:signal=KILL");
            assert_eq!(
                host.run(&format!("{killed} runns-exec build -n a -r /tmp/dns"))
                    .status,
                137,
                "{file} {call}"
            );
            host.ok("runns-exec clean a -f");
            assert_eq!(host.ok("ls -A /etc/netns"), "a");
            before.assert_same(&Snapshot::of(&host));
        }
        // What a build that was killed has left is nobody's, also after a reboot.
        host.ok(&format!(
            ">/etc/netns/a/.{file}~; runns-exec build -n a -r /tmp/dns && ls -A /etc/netns/a"
        ));
        assert_eq!(host.ok("ls -A /etc/netns/a"), "nsswitch.conf\nresolv.conf");
        host.ok(&format!(
            "runns-exec clean a -f && mkdir -p /etc/netns/a && >/etc/netns/a/.{file}~ && runns-exec clean a"
        ));
        host.ok("test ! -e /etc/netns/a && mkdir /etc/netns/a");
    }
}

/// A record without a namespace would be in the way of every later build.
#[test]
fn a_full_run_leaves_no_record() {
    let host = Host::new();
    let before = Snapshot::of(&host);
    // The directory itself, the lock, the record, the number, and so on: whatever comes after that
    // is one too many.
    for inodes in 2..6 {
        host.ok(&format!(
            "mkdir /run/runns && mount -t tmpfs -o mode=755,nr_inodes={inodes} t /run/runns"
        ));
        host.run("runns-exec build -n a")
            .refused(1, &["/run/runns", "No space left"]);
        assert_eq!(host.ok("ls -A /run/runns"), "", "{inodes} inodes");
        host.ok("umount /run/runns && rmdir /run/runns");
        before.assert_same(&Snapshot::of(&host));
    }
}

/// Whatever a namespace is called, what belongs to it is no incomplete file.
#[test]
fn names_like_those_of_incomplete_files() {
    let host = Host::new();
    host.ok("runns-exec build -n a.new && runns-exec build -n b");
    assert_eq!(
        host.ok("ls -A /run/runns | grep 'a[.]new' | wc -l"),
        "3",
        "record, number, hosts"
    );
    host.ok("runns-exec clean a.new && runns-exec clean b -f");
}
