//! Durations and sizes as people write them: `30s`, `500ms`, `8MiB`.

use std::time::Duration;

use super::errors::{Complaint, shown};

const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

const SIZE_UNITS: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads `30s`, `500ms`, `1h30m`, `0`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Complaint> {
    let wrong = || {
        Complaint::new(format!("{} is not a duration", shown(text)))
            .hint("write a whole number and a unit: 500ms, 30s, 10m, 1h, 7d; 0 needs no unit")
    };
    let text_ = text.trim();
    if text_ == "0" {
        return Ok(Duration::ZERO);
    }
    let mut micros: u64 = 0;
    let mut rest = text_;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest).ok_or_else(wrong)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        if unit.is_empty() {
            return Err(Complaint::new(format!("{} has no unit", shown(text)))
                .hint(format!("write {number}s, {number}ms, {number}m or {number}h")));
        }
        let factor = factor(DURATION_UNITS, unit).ok_or_else(wrong)?;
        let part = number.checked_mul(factor).ok_or_else(|| too_large(text))?;
        micros = micros.checked_add(part).ok_or_else(|| too_large(text))?;
        rest = next;
    }
    if text_.is_empty() { Err(wrong()) } else { Ok(Duration::from_micros(micros)) }
}

/// Reads `8MiB`, `64KB`, `0`; the number is of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, Complaint> {
    let wrong = || {
        Complaint::new(format!("{} is not a size", shown(text)))
            .hint("write a whole number and a unit: 64KiB, 8MiB, 1GiB, 64KB, 512B; 0 needs no unit")
    };
    let text_ = text.trim();
    let (number, unit) = leading_number(text_).ok_or_else(wrong)?;
    let unit = unit.trim();
    if unit.is_empty() {
        if number == 0 {
            return Ok(0);
        }
        return Err(Complaint::new(format!("{} has no unit", shown(text)))
            .hint(format!("write {number}B, {number}KiB or {number}MiB")));
    }
    number.checked_mul(factor(SIZE_UNITS, unit).ok_or_else(wrong)?).ok_or_else(|| too_large(text))
}

/// The shortest way to write `duration` in one unit.
pub(super) fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (unit, factor) in DURATION_UNITS {
        if *unit != "min" && micros > 0 && micros.is_multiple_of(u128::from(*factor)) {
            return format!("{}{unit}", micros / u128::from(*factor));
        }
    }
    micros.to_string()
}

/// The shortest way to write `bytes` in one binary unit.
pub(super) fn show_size(bytes: u64) -> String {
    for (unit, factor) in SIZE_UNITS {
        if (unit.contains('i') || *unit == "B") && bytes > 0 && bytes.is_multiple_of(*factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    // Too many digits for 64 bits are as wrong as none; the caller's message fits both.
    Some((digits.parse().ok()?, rest))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

fn too_large(text: &str) -> Complaint {
    Complaint::new(format!("{} is too large", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, micros) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500_000),
            ("30s", 30_000_000),
            ("10m", 600_000_000),
            ("10min", 600_000_000),
            ("1h", 3_600_000_000),
            ("1h30m", 5_400_000_000),
            ("7d", 604_800_000_000),
            ("5us", 5),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_micros(micros), "{text}");
        }
        for text in
            ["", "s", "-1s", "1.5h", "30", "1 year", "1s2", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("8MiB", 8 << 20),
            ("64KB", 64_000),
            ("64 KiB", 65_536),
            ("1GiB", 1 << 30),
            ("12B", 12),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "MiB", "-1MiB", "8", "8mib", "8Mb", "1.5MiB", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back(micros in 0..u64::MAX / 2, bytes: u64) {
            let duration = Duration::from_micros(micros);
            proptest::prop_assert_eq!(parse_duration(&show_duration(duration)).unwrap(), duration);
            proptest::prop_assert_eq!(parse_size(&show_size(bytes)).unwrap(), bytes);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
