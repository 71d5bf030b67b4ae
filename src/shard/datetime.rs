//! Dates and times in ISO 8601's forms, which mean the same under every DateStyle. A `timestamp with time
//! zone` needs its offset written out: without one it would depend on the session's time zone.

use super::text::trimmed;

const DAY_MICROS: i64 = 86_400_000_000;
/// The Julian day of 2000-01-01.
const EPOCH_JULIAN: i64 = 2_451_545;

/// Days since 2000-01-01.
pub(super) fn date(text: &str) -> Option<i32> {
    let text = trimmed(text);
    match infinity(text) {
        Some(true) => return Some(i32::MAX),
        Some(false) => return Some(i32::MIN),
        None => {}
    }
    let (text, before_christ) = era(text);
    i32::try_from(days(text, before_christ)?).ok().filter(|days| *days > i32::MIN && *days < i32::MAX)
}

/// Microseconds since midnight; `24:00:00` is PostgreSQL's end of the day.
pub(super) fn time(text: &str) -> Option<i64> {
    let text = trimmed(text);
    if text == "24:00:00" { Some(DAY_MICROS) } else { clock(text) }
}

/// Microseconds since 2000-01-01.
pub(super) fn timestamp(text: &str) -> Option<i64> {
    let text = trimmed(text);
    if let Some(future) = infinity(text) {
        return Some(if future { i64::MAX } else { i64::MIN });
    }
    let (text, before_christ) = era(text);
    let (day, clock_text) = match text.split_once([' ', 'T']) {
        Some((day, clock_text)) => (day, Some(clock_text)),
        None => (text, None),
    };
    let micros = clock_text.map_or(Some(0), clock)?;
    moment(day, before_christ, micros)
}

/// Microseconds since 2000-01-01 UTC.
pub(super) fn timestamptz(text: &str) -> Option<i64> {
    let text = trimmed(text);
    if let Some(future) = infinity(text) {
        return Some(if future { i64::MAX } else { i64::MIN });
    }
    let (text, before_christ) = era(text);
    let (day, rest) = text.split_once([' ', 'T'])?;
    let at = rest.find(['+', '-', 'Z'])?;
    let (clock_text, zone) = rest.split_at(at);
    let micros = clock(clock_text)?;
    moment(day, before_christ, micros - offset(zone)?)
}

fn infinity(text: &str) -> Option<bool> {
    match text {
        "infinity" => Some(true),
        "-infinity" => Some(false),
        _ => None,
    }
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

fn moment(day: &str, before_christ: bool, micros: i64) -> Option<i64> {
    let micros = days(day, before_christ)?.checked_mul(DAY_MICROS)?.checked_add(micros)?;
    // The ends of the range are the infinities.
    (micros > i64::MIN && micros < i64::MAX).then_some(micros)
}

/// Exactly `len` digits.
fn digits(text: &str, len: usize) -> Option<i64> {
    let plain = text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// `YYYY-MM-DD` as days since 2000-01-01; years of more digits, too.
fn days(text: &str, before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(4..=7).contains(&year.len()) {
        return None;
    }
    let year = digits(year, year.len()).filter(|year| *year > 0)?;
    let (month, day) = (digits(month, 2)?, digits(day, 2)?);
    let year = if before_christ { 1 - year } else { year };
    let leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    // PostgreSQL's first day is 4714-11-24 BC.
    if !(1..=length).contains(&day) || (year, month, day) < (-4713, 11, 24) {
        return None;
    }
    // Days of the proleptic Gregorian calendar, years beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let shifted = year + 4800;
    let julian =
        shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + (153 * month + 2) / 5 + day - 32_045;
    Some(julian - EPOCH_JULIAN)
}

/// `HH:MM[:SS[.ffffff]]` in microseconds.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hours, minutes) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (seconds, micros) = match parts.next() {
        None => (0, 0),
        Some(text) => {
            let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
            if !(1..=6).contains(&fraction.len()) {
                return None;
            }
            let scale = 10i64.pow(6 - fraction.len() as u32);
            (digits(seconds, 2)?, digits(fraction, fraction.len())? * scale)
        }
    };
    if parts.next().is_some() || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

/// `Z`, `+HH`, `+HH:MM`, `+HH:MM:SS` in microseconds east of Greenwich.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let mut parts = text.get(1..)?.split(':');
    let hours = digits(parts.next()?, 2)?;
    let minutes = parts.next().map_or(Some(0), |text| digits(text, 2))?;
    let seconds = parts.next().map_or(Some(0), |text| digits(text, 2))?;
    if parts.next().is_some() || hours > 15 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(sign * ((hours * 60 + minutes) * 60 + seconds) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_postgresql_does() {
        assert_eq!(date("2000-01-01"), Some(0));
        assert_eq!(date("1999-12-31"), Some(-1));
        assert_eq!(date("2026-11-28"), Some(9828));
        assert_eq!(date("0001-01-01 BC"), Some(-730_485));
        assert_eq!(timestamp("2000-01-01 00:00:01.5"), Some(1_500_000));
        assert_eq!(timestamptz("2000-01-01T02:00:00+02"), Some(0));
        assert_eq!(timestamptz("1999-12-31 19:30:00-04:30"), Some(0));
        assert_eq!(time("24:00:00"), Some(DAY_MICROS));
    }

    #[test]
    fn what_depends_on_the_session_is_not_read() {
        for text in
            ["01/02/2026", "26-01-02", "2026-1-2", "2026-02-30", "today", "2026-01-02 10:00", "0000-01-01"]
        {
            assert_eq!(date(text), None, "{text}");
        }
        for text in
            ["2026-01-02 10:00:00", "2026-01-02", "2026-01-02 10:00:00 CET", "now", "2026-01-02 10:00:60Z"]
        {
            assert_eq!(timestamptz(text), None, "{text}");
        }
        for text in ["2026-01-02 10:00:00Z", "2026-01-02 10:00:00+02", "2026-01-02 10:00:00.1234567"] {
            assert_eq!(timestamp(text), None, "{text}");
        }
    }
}
