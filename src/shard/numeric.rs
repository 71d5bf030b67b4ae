//! `numeric` as PostgreSQL holds it: digits of base 10000 without zeros at either end.

use std::cmp::Ordering;

use super::hash;
use super::text::trimmed;

/// Longest text that is looked at; longer numbers are no keys.
const TEXT_MAX: usize = 1_000;
/// Largest exponent that is looked at.
const EXPONENT_MAX: i64 = 1_000;

/// A decimal number; equal values are equal here, whatever their scale.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Numeric {
    /// Below all numbers.
    NegativeInfinity,
    /// A number.
    Finite(Finite),
    /// Above all numbers.
    Infinity,
    /// Above all others.
    NotANumber,
}

/// A number: the sum of `digits[n] * 10000^(weight - n)`; zero has no digits and no sign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Finite {
    negative: bool,
    weight: i32,
    digits: Box<[u16]>,
}

impl Numeric {
    /// As PostgreSQL's input reads it; hexadecimal and underscores left out.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let text = trimmed(text);
        if text.len() > TEXT_MAX {
            return None;
        }
        match text.to_ascii_lowercase().as_str() {
            "nan" => return Some(Self::NotANumber),
            "infinity" | "+infinity" | "inf" | "+inf" => return Some(Self::Infinity),
            "-infinity" | "-inf" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let negative = text.starts_with('-');
        let text = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, super::text::integer(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if all.is_empty() || !all.iter().all(u8::is_ascii_digit) || exponent.abs() > EXPONENT_MAX {
            return None;
        }
        // How many of the digits stand before the point.
        let point = i64::try_from(whole.len()).ok()? + exponent;
        // Groups of four begin at the point: zeros in front make the first one whole.
        let missing = (-point).rem_euclid(4);
        let mut groups = Vec::with_capacity(all.len() / 4 + 2);
        let padded: Vec<u8> = std::iter::repeat_n(b'0', usize::try_from(missing).ok()?).chain(all).collect();
        for group in padded.chunks(4) {
            let value = (0..4)
                .fold(0u16, |sum, n| sum * 10 + group.get(n).map_or(0, |digit| u16::from(digit - b'0')));
            groups.push(value);
        }
        let weight = i32::try_from((point + missing) / 4 - 1).ok()?;
        Some(Self::Finite(Finite::new(negative, weight, &groups)))
    }

    /// From the binary format: number of digits, weight, sign, scale, digits; each two bytes.
    pub(super) fn from_binary(bytes: &[u8]) -> Option<Self> {
        let mut words =
            bytes.chunks(2).map(|pair| pair.first_chunk::<2>().map(|pair| u16::from_be_bytes(*pair)));
        let mut next = || words.next().flatten();
        let (count, weight, sign, scale) = (next()?, next()?.cast_signed(), next()?, next()?);
        let digits: Option<Vec<u16>> = (0..count).map(|_| next()).collect();
        let digits = digits?;
        let expected = 8 + 2 * usize::from(count);
        if bytes.len() != expected || digits.iter().any(|digit| *digit > 9_999) {
            return None;
        }
        match sign {
            0x0000 | 0x4000 => {
                let number = Finite::new(sign == 0x4000, i32::from(weight), &digits);
                // PostgreSQL cuts digits beyond the scale; no driver sends them.
                number.fits_scale(scale).then_some(Self::Finite(number))
            }
            0xC000 => Some(Self::NotANumber),
            0xD000 => Some(Self::Infinity),
            0xF000 => Some(Self::NegativeInfinity),
            _ => None,
        }
    }

    /// `hash_numeric_extended`.
    pub(super) fn hash(&self, seed: u64) -> u64 {
        let Self::Finite(number) = self else { return seed };
        if number.digits.is_empty() {
            return seed.wrapping_sub(1);
        }
        let bytes: Vec<u8> = number.digits.iter().flat_map(|digit| digit.to_le_bytes()).collect();
        // The weight is widened with its sign.
        hash::bytes(&bytes, seed) ^ i64::from(number.weight).cast_unsigned()
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite(_) => 1,
            Self::Infinity => 2,
            Self::NotANumber => 3,
        }
    }
}

impl Finite {
    fn new(negative: bool, weight: i32, groups: &[u16]) -> Self {
        let Some(first) = groups.iter().position(|group| *group != 0) else { return Self::default() };
        let last = groups.iter().rposition(|group| *group != 0).unwrap_or(first);
        let digits = groups.get(first..=last).unwrap_or_default().into();
        let leading = i32::try_from(first).unwrap_or(i32::MAX);
        Self { negative, weight: weight.saturating_sub(leading), digits }
    }

    /// Whether no digit stands further behind the point than `scale` says.
    fn fits_scale(&self, scale: u16) -> bool {
        let Some(last) = self.digits.last() else { return true };
        let zeros: i64 = [10, 100, 1000].iter().map(|power| i64::from(last % power == 0)).sum();
        let groups = i64::try_from(self.digits.len()).unwrap_or(i64::MAX);
        let behind = (groups - 1 - i64::from(self.weight)) * 4 - zeros;
        behind <= i64::from(scale)
    }

    fn order(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || self.weight.cmp(&other.weight).then_with(|| self.digits.cmp(&other.digits));
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            1 => size(),
            _ => size().reverse(),
        })
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.order(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Numeric {
        Numeric::from_text(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    #[allow(clippy::panic, reason = "a test")]
    fn equal_values_are_equal() {
        for (a, b) in
            [("1", "1.000"), ("0", "-0.0"), ("100000000", "1e8"), ("0.00010", ".0001"), ("12.5", "125e-1")]
        {
            assert_eq!(read(a), read(b), "{a} {b}");
        }
        for text in ["", ".", "1.2.3", "1e", "0x10", "1_0", "1e99999", "- 1"] {
            assert_eq!(Numeric::from_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn they_are_ordered() {
        let sorted =
            ["-inf", "-100000", "-2", "-1.5", "-0.001", "0", "0.001", "1.5", "2", "100000", "inf", "nan"];
        for pair in sorted.windows(2) {
            assert!(read(pair[0]) < read(pair[1]), "{pair:?}");
        }
    }
}
