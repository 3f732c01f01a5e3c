//! A process in a named namespace, on its way from the program with capabilities, which finds it, to
//! the program for root, which prints it.

use crate::name::NetnsName;

/// What `runns-exec list` finds out about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The namespace that it is in.
    pub namespace: NetnsName,
    /// Its number.
    pub pid: i32,
    /// That of its parent.
    pub ppid: i32,
    /// Its real uid.
    pub uid: u32,
    /// In clock ticks since the machine was started (proc_pid_stat(5)).
    pub start_time: u64,
    /// Its arguments, each with a NUL behind it.
    pub command: Vec<u8>,
}

impl Listed {
    /// For another process: a line of words, the last of which is the length of what follows it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self {
            namespace,
            pid,
            ppid,
            uid,
            start_time,
            command,
        } = self;
        let length = command.len();
        let line = format!("{namespace} {pid} {ppid} {uid} {start_time} {length}\n");
        [line.as_bytes(), command].concat()
    }

    /// What another process wrote, several one after the other; `None` if it is not that.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n')?;
            let line = std::str::from_utf8(&bytes[..end]).ok()?;
            let [namespace, pid, ppid, uid, start_time, length] =
                line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let (command, rest) = bytes[end + 1..].split_at_checked(length.parse().ok()?)?;
            all.push(Self {
                namespace: NetnsName::new(namespace).ok()?,
                pid: pid.parse().ok()?,
                ppid: ppid.parse().ok()?,
                uid: uid.parse().ok()?,
                start_time: start_time.parse().ok()?,
                command: command.to_vec(),
            });
            bytes = rest;
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        let listed = |command: &[u8]| Listed {
            namespace: NetnsName::new("vpn1").unwrap(),
            pid: 7,
            ppid: 0,
            uid: u32::MAX,
            start_time: u64::MAX,
            command: command.to_vec(),
        };
        let all = vec![listed(b"sh\0a\n7 7 7\xff\0"), listed(b""), listed(b"\n")];
        let bytes: Vec<u8> = all.iter().flat_map(Listed::to_bytes).collect();
        assert_eq!(Listed::from_bytes(&bytes), Some(all));
        assert_eq!(Listed::from_bytes(b""), Some(Vec::new()));
        for cut in 1..bytes.len() {
            let read = Listed::from_bytes(&bytes[..cut]);
            assert!(read.is_none_or(|read| read.len() < 3), "{cut}");
        }
        for broken in [
            "\n",
            "vpn1 7 1 0 0\n",
            "../x 7 1 0 0 0\n",
            "a 1 1 1 1 -1\n",
            "a 1 1 1 1 9\n",
        ] {
            assert_eq!(Listed::from_bytes(broken.as_bytes()), None, "{broken:?}");
        }
    }
}
