//! Wall-clock time as people and programs write it (localtime(3), RFC 3339).

use nix::libc;

/// A moment in local time.
pub struct LocalTime {
    tm: libc::tm,
}

/// `seconds` since the epoch in the zone of /etc/localtime (or `TZ`, which the C library restricts for privileged
/// programs).
pub fn local(seconds: i64) -> LocalTime {
    // SAFETY: an all-zero tm is a valid value; localtime_r writes only to it and reads only `seconds`.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut tm).is_null() {
            libc::gmtime_r(&0, &mut tm);
        }
        tm
    };
    LocalTime { tm }
}

/// Seconds since the epoch, now.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// When the machine was started, in nanoseconds since the epoch: CLOCK_REALTIME less CLOCK_BOOTTIME, which counts as
/// the start times of processes do (clock_gettime(2)). /proc/stat's btime is this in whole seconds.
pub fn boot_time() -> i128 {
    let read = |clock| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: clock_gettime writes a timespec; both clocks exist on every kernel since 2.6.39.
        unsafe { libc::clock_gettime(clock, &mut time) };
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    read(libc::CLOCK_REALTIME) - read(libc::CLOCK_BOOTTIME)
}

impl LocalTime {
    /// `2026-01-02 03:04:05`.
    pub fn table(&self) -> String {
        format!("{} {}", self.date(), self.time())
    }

    /// `2026-01-02T03:04:05+01:00` (RFC 3339).
    pub fn rfc3339(&self) -> String {
        let offset = self.tm.tm_gmtoff / 60;
        let sign = if offset < 0 { '-' } else { '+' };
        let offset = offset.abs();
        format!("{}T{}{sign}{:02}:{:02}", self.date(), self.time(), offset / 60, offset % 60)
    }

    fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", i64::from(self.tm.tm_year) + 1900, self.tm.tm_mon + 1, self.tm.tm_mday)
    }

    fn time(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.tm.tm_hour, self.tm.tm_min, self.tm.tm_sec.min(59))
    }
}
