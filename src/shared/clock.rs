//! Wall-clock time.

use nix::time::{ClockId, clock_gettime};

/// Seconds since the epoch, now.
pub fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() as i64)
}

/// When the machine was started, in nanoseconds since the epoch: CLOCK_REALTIME less
/// CLOCK_BOOTTIME, which counts as the start times of processes do (clock_gettime(2)). /proc/stat's
/// btime is this in whole seconds.
pub fn boot_time() -> i64 {
    let read = |clock| {
        let time = clock_gettime(clock).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
        time.tv_sec()
            .saturating_mul(1_000_000_000)
            .saturating_add(time.tv_nsec())
    };
    read(ClockId::CLOCK_REALTIME) - read(ClockId::CLOCK_BOOTTIME)
}
