//! Wall-clock time as people and programs write it (localtime(3), RFC 3339).

use tz::{DateTime, TimeZone, TimeZoneRef};

/// The time zone of the user: that of `TZ`, else of /etc/localtime, else UTC.
pub struct Zone(Option<TimeZone>);

impl Zone {
    /// Reads it.
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
