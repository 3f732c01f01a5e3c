//! Wall-clock time as people and programs write it (localtime(3), RFC 3339). The C library's
//! localtime(3) would bring a tenth of a megabyte of number parsers into the program that has
//! capabilities.

use nix::time::{ClockId, clock_gettime};
use tz::{DateTime, TimeZone, TimeZoneRef};

/// The time zone of the user: that of `TZ`, else of /etc/localtime, else UTC.
pub struct Zone(Option<TimeZone>);

impl Zone {
    /// Reads it. The files are those that the environment names: not to be done with privileges.
    pub fn of_user() -> Self {
        let named = std::env::var("TZ")
            .ok()
            .map(|name| TimeZone::from_posix_tz(&name).ok());
        Self(named.unwrap_or_else(|| TimeZone::local().ok()))
    }

    fn at(&self, seconds: i64) -> DateTime {
        let zone = self.0.as_ref().map_or(TimeZoneRef::utc(), TimeZone::as_ref);
        let moment = |seconds, zone| DateTime::from_timespec(seconds, 0, zone);
        // A time that no calendar has is shown as the first one.
        moment(seconds, zone)
            .or_else(|_| moment(0, TimeZoneRef::utc()))
            .unwrap_or_else(|_| unreachable!())
    }

    /// `2026-01-02 03:04:05`, of `seconds` since the epoch.
    pub fn table(&self, seconds: i64) -> String {
        let time = self.at(seconds);
        format!("{} {}", date(&time), time_of_day(&time))
    }

    /// `2026-01-02T03:04:05+01:00` (RFC 3339), of `seconds` since the epoch.
    pub fn rfc3339(&self, seconds: i64) -> String {
        let time = self.at(seconds);
        let offset = time.local_time_type().ut_offset() / 60;
        let sign = if offset < 0 { '-' } else { '+' };
        let offset = offset.abs();
        format!(
            "{}T{}{sign}{:02}:{:02}",
            date(&time),
            time_of_day(&time),
            offset / 60,
            offset % 60
        )
    }
}

fn date(time: &DateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}",
        time.year(),
        time.month(),
        time.month_day()
    )
}

fn time_of_day(time: &DateTime) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        time.hour(),
        time.minute(),
        time.second().min(59)
    )
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_a_zone_with_summer_time() {
        let berlin = Zone(TimeZone::from_posix_tz("CET-1CEST,M3.5.0,M10.5.0/3").ok());
        assert_eq!(berlin.rfc3339(1_750_000_000), "2025-06-15T17:06:40+02:00");
        assert_eq!(berlin.rfc3339(1_735_689_600), "2025-01-01T01:00:00+01:00");
        assert_eq!(berlin.table(1_735_689_600), "2025-01-01 01:00:00");
        let newfoundland = Zone(TimeZone::from_posix_tz("NST3:30").ok());
        assert_eq!(newfoundland.rfc3339(0), "1969-12-31T20:30:00-03:30");
        assert_eq!(Zone(None).rfc3339(0), "1970-01-01T00:00:00+00:00");
        assert_eq!(Zone(None).rfc3339(i64::MAX), "1970-01-01T00:00:00+00:00");
    }
}
