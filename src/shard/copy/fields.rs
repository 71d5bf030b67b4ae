//! The fields of a line: text format with its escapes, CSV with its quotes. Each function reads one
//! field from where it begins, and says where the next one does.

use super::CopyOptions;
use super::error::CopyProblem;

/// What a field holds; a value is in the buffer that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Null,
    /// The column's default.
    Default,
    Value,
}

/// What the raw text of a field says; quotes make it a value.
fn meaning(raw: &[u8], was_quoted: bool, options: &CopyOptions) -> Field {
    if !was_quoted && raw == options.null {
        Field::Null
    } else if options.default.as_deref() == Some(raw) {
        Field::Default
    } else {
        Field::Value
    }
}

/// A field in text format.
pub(super) fn text(
    line: &[u8],
    from: usize,
    options: &CopyOptions,
    mut out: Option<&mut Vec<u8>>,
) -> (Field, Option<usize>) {
    let mut at = from;
    let (end, next) = loop {
        let start = at;
        let Some(&byte) = line.get(at) else { break (at, None) };
        at += 1;
        if byte == options.delimiter {
            break (start, Some(at));
        }
        let mut value = byte;
        if byte == b'\\' {
            let Some(&escaped) = line.get(at) else { break (start, None) };
            at += 1;
            value = match escaped {
                b'0'..=b'7' => number(line, &mut at, u32::from(escaped - b'0'), 8),
                b'x' => match line.get(at).and_then(|digit| char::from(*digit).to_digit(16)) {
                    Some(digit) => {
                        at += 1;
                        number(line, &mut at, digit, 16)
                    }
                    None => b'x',
                },
                b'b' => 0x08,
                b'f' => 0x0c,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 0x0b,
                other => other,
            };
        }
        if let Some(out) = &mut out {
            out.push(value);
        }
    };
    (meaning(line.get(from..end).unwrap_or_default(), false, options), next)
}

/// More digits of an escape: two of base 8, one of base 16.
fn number(line: &[u8], at: &mut usize, first: u32, base: u32) -> u8 {
    let mut number = first;
    for _ in 0..if base == 8 { 2 } else { 1 } {
        let Some(digit) = line.get(*at).and_then(|digit| char::from(*digit).to_digit(base)) else { break };
        number = number * base + digit;
        *at += 1;
    }
    (number & 0xff) as u8
}

/// A field in CSV format.
pub(super) fn csv(
    line: &[u8],
    from: usize,
    options: &CopyOptions,
    mut out: Option<&mut Vec<u8>>,
) -> Result<(Field, Option<usize>), CopyProblem> {
    let mut at = from;
    let (mut in_quotes, mut was_quoted) = (false, false);
    let (end, next) = loop {
        let start = at;
        let Some(&byte) = line.get(at) else {
            if in_quotes {
                return Err(CopyProblem::Malformed("unterminated CSV quoted field"));
            }
            break (at, None);
        };
        at += 1;
        let mut value = byte;
        if in_quotes {
            let escaped = line.get(at).filter(|next| **next == options.escape || **next == options.quote);
            match escaped {
                Some(next) if byte == options.escape => {
                    value = *next;
                    at += 1;
                }
                _ if byte == options.quote => {
                    in_quotes = false;
                    continue;
                }
                _ => {}
            }
        } else if byte == options.delimiter {
            break (start, Some(at));
        } else if byte == options.quote {
            (in_quotes, was_quoted) = (true, true);
            continue;
        }
        if let Some(out) = &mut out {
            out.push(value);
        }
    };
    Ok((meaning(line.get(from..end).unwrap_or_default(), was_quoted, options), next))
}

#[cfg(test)]
mod tests {
    use super::super::CopyFormat;
    use super::*;

    fn all(line: &str, options: &CopyOptions) -> Result<Vec<Option<Vec<u8>>>, CopyProblem> {
        let (mut fields, mut at) = (Vec::new(), Some(0));
        while let Some(from) = at {
            let mut out = Vec::new();
            let (field, next) = match options.format {
                CopyFormat::Csv => csv(line.as_bytes(), from, options, Some(&mut out))?,
                _ => text(line.as_bytes(), from, options, Some(&mut out)),
            };
            fields.push((field == Field::Value).then_some(out));
            at = next;
        }
        Ok(fields)
    }

    #[allow(clippy::unnecessary_wraps, reason = "as NULL is written")]
    fn some(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn text_fields() {
        let options = CopyOptions::of(CopyFormat::Text);
        for (line, want) in [
            ("1\t2", vec![some("1"), some("2")]),
            ("", vec![some("")]),
            ("\t", vec![some(""), some("")]),
            ("\\N\t\\\\N\tN", vec![None, some("\\N"), some("N")]),
            ("a\\\tb\t\\t\\n\\\\", vec![some("a\tb"), some("\t\n\\")]),
            ("\\x41\\x4\\xg\\101\\0060\\q", vec![some("A\u{4}xgA\u{6}0q")]),
            ("a\\", vec![some("a")]),
        ] {
            assert_eq!(all(line, &options).unwrap(), want, "{line:?}");
        }
        let mut options = CopyOptions::of(CopyFormat::Text);
        (options.delimiter, options.null, options.default) = (b'A', b"\\".to_vec(), Some(b"\\D".to_vec()));
        // A digit of an escape before a delimiter; and what is raw before a lone backslash.
        assert_eq!(all("\\x4AA\\D", &options).unwrap(), [some("J"), None]);
        assert_eq!(all("", &CopyOptions { null: Vec::new(), ..options }).unwrap(), [None]);
    }

    #[test]
    fn csv_fields() {
        let mut options = CopyOptions::of(CopyFormat::Csv);
        for (line, want) in [
            ("1,,\"\"", vec![some("1"), None, some("")]),
            ("\"a,\"\"b\"\"\",c\"d,e\"f", vec![some("a,\"b\""), some("cd,ef")]),
            ("\"\n\"", vec![some("\n")]),
        ] {
            assert_eq!(all(line, &options).unwrap(), want, "{line:?}");
        }
        assert_eq!(all("\"a", &options), Err(CopyProblem::Malformed("unterminated CSV quoted field")));
        (options.quote, options.escape, options.delimiter) = (b'\'', b'\\', b';');
        assert_eq!(
            all("'a\\'b\\\\c\\d';\\'x'", &options).unwrap(),
            [some("a'b\\c\\d"), some("\\x")],
            "an escape is one in quotes only"
        );
    }
}
