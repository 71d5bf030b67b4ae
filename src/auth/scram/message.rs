//! The four SCRAM messages, taken apart. Everything borrows from the message; nothing is trusted.
//!
//! Errors are short texts for a detail line: what was expected, never what was there.

use std::num::NonZeroU32;

use super::decode_base64;
use crate::auth::digest::{KEY_BYTES, Key};
use crate::auth::keys;

/// Why a message cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not follow the grammar.
    Malformed(&'static str),
    /// It follows it and asks for what we do not serve.
    Unsupported(&'static str),
}

type Parsed<T> = Result<T, Fault>;

/// What the client says about channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// `n`: it cannot.
    None,
    /// `y`: it could, and believes that the server cannot. True, since we never offer it.
    NotOffered,
}

impl Binding {
    /// The `c` attribute of the last message: base64 of the header that the first message began with.
    pub(super) fn echo(self) -> &'static [u8] {
        match self {
            Self::None => b"biws",       // n,,
            Self::NotOffered => b"eSws", // y,,
        }
    }
}

/// `n,,n=user,r=nonce`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    pub(super) binding: Binding,
    /// All after the header; part of what is signed.
    pub(super) bare: &'a [u8],
    pub(super) nonce: &'a [u8],
}

impl<'a> ClientFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Parsed<Self> {
        let (flag, rest) = split_comma(message).ok_or(Fault::Malformed("No channel binding flag."))?;
        let binding = match flag {
            b"n" => Binding::None,
            b"y" => Binding::NotOffered,
            [b'p', b'=', ..] => {
                return Err(Fault::Malformed(
                    "Channel binding was not offered, but the message asks for it.",
                ));
            }
            _ => return Err(Fault::Malformed("Unknown channel binding flag.")),
        };
        let (authorize_as, bare) = split_comma(rest).ok_or(Fault::Malformed("No authorization identity."))?;
        if !authorize_as.is_empty() {
            return Err(Fault::Unsupported("client uses authorization identity, but it is not supported"));
        }
        if bare.starts_with(b"m=") {
            return Err(Fault::Unsupported("client requires an unsupported SCRAM extension"));
        }
        let mut attributes = Attributes(bare);
        attributes.expect(b'n', "Attribute \"n\" expected.")?;
        let nonce = attributes.expect(b'r', "Attribute \"r\" expected.")?;
        check_nonce(nonce)?;
        attributes.skip_rest()?;
        Ok(Self { binding, bare, nonce })
    }
}

/// `c=biws,r=nonce,p=proof`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFinal<'a> {
    pub(super) binding: &'a [u8],
    pub(super) nonce: &'a [u8],
    /// All before `,p=`; part of what is signed.
    pub(super) without_proof: &'a [u8],
    pub(super) proof: Key,
}

impl<'a> ClientFinal<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Parsed<Self> {
        // The proof comes last and base64 has no comma.
        let comma = message.iter().rposition(|byte| *byte == b',').ok_or(Fault::Malformed("No proof."))?;
        let (without_proof, last) = message.split_at_checked(comma).unwrap_or((message, b""));
        let proof =
            last.strip_prefix(b",p=").ok_or(Fault::Malformed("The last attribute is not a proof."))?;
        let proof =
            decode_key(proof).ok_or(Fault::Malformed("The proof is not a SHA-256 digest in base64."))?;
        let mut attributes = Attributes(without_proof);
        let binding = attributes.expect(b'c', "Attribute \"c\" expected.")?;
        let nonce = attributes.expect(b'r', "Attribute \"r\" expected.")?;
        attributes.skip_rest()?;
        Ok(Self { binding, nonce, without_proof, proof })
    }
}

/// `r=nonce,s=salt,i=iterations`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    pub(super) nonce: &'a [u8],
    pub(super) salt: Vec<u8>,
    pub(super) iterations: NonZeroU32,
}

impl<'a> ServerFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Parsed<Self> {
        if message.starts_with(b"m=") {
            return Err(Fault::Unsupported("server requires an unsupported SCRAM extension"));
        }
        let mut attributes = Attributes(message);
        let nonce = attributes.expect(b'r', "Attribute \"r\" expected.")?;
        check_nonce(nonce)?;
        let salt = decode_base64(attributes.expect(b's', "Attribute \"s\" expected.")?)
            .filter(|salt| !salt.is_empty())
            .ok_or(Fault::Malformed("The salt is not base64."))?;
        let iterations = keys::parse_iterations(attributes.expect(b'i', "Attribute \"i\" expected.")?)
            .ok_or(Fault::Malformed("The iteration count is not a number within bounds."))?;
        attributes.skip_rest()?;
        Ok(Self { nonce, salt, iterations })
    }
}

/// `v=signature` or `e=error`
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServerFinal {
    /// The server's proof.
    Signature(Key),
    /// The server says no; PostgreSQL never says it here.
    Error,
}

impl ServerFinal {
    pub(super) fn parse(message: &[u8]) -> Parsed<Self> {
        if message.starts_with(b"e=") {
            return Ok(Self::Error);
        }
        let mut attributes = Attributes(message);
        let signature = decode_key(attributes.expect(b'v', "Attribute \"v\" expected.")?)
            .ok_or(Fault::Malformed("The signature is not a SHA-256 digest in base64."))?;
        attributes.skip_rest()?;
        Ok(Self::Signature(signature))
    }
}

/// What is left of `a=value,b=value`.
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The next attribute, which must be `name`.
    fn expect(&mut self, name: u8, missing: &'static str) -> Parsed<&'a [u8]> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            _ => Err(Fault::Malformed(missing)),
        }
    }

    fn next(&mut self) -> Parsed<Option<(u8, &'a [u8])>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (attribute, rest) = split_comma(self.0).unwrap_or((self.0, b""));
        if rest.is_empty() && attribute.len() < self.0.len() {
            return Err(Fault::Malformed("Comma at the end."));
        }
        self.0 = rest;
        match attribute {
            [name, b'=', value @ ..] if name.is_ascii_alphabetic() && !value.contains(&0) => {
                Ok(Some((*name, value)))
            }
            _ => Err(Fault::Malformed("Attribute without name or value.")),
        }
    }

    /// Extensions that are not mandatory may follow; they are ignored if well formed.
    fn skip_rest(&mut self) -> Parsed<()> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

fn split_comma(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let comma = text.iter().position(|byte| *byte == b',')?;
    Some((text.get(..comma)?, text.get(comma + 1..)?))
}

fn check_nonce(nonce: &[u8]) -> Parsed<()> {
    if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) {
        return Err(Fault::Malformed("The nonce is empty or not printable."));
    }
    Ok(())
}

fn decode_key(text: &[u8]) -> Option<Key> {
    // Checked first, so that a long message decodes nothing.
    if text.len() > KEY_BYTES * 2 {
        return None;
    }
    decode_base64(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_first() {
        let parsed = ClientFirst::parse(b"n,,n=,r=abc").unwrap();
        assert_eq!(parsed, ClientFirst { binding: Binding::None, bare: b"n=,r=abc", nonce: b"abc" });
        let parsed = ClientFirst::parse(b"y,,n=user,r=a!c,x=ext").unwrap();
        assert_eq!(parsed.binding, Binding::NotOffered);
        assert_eq!(parsed.bare, b"n=user,r=a!c,x=ext");
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=",
            "n,,n=,",
            "n,,n=,r=",
            "n,,r=abc",
            "n,,r=abc,n=",
            "x,,n=,r=abc",
            "nn,,n=,r=abc",
            "n,,n=,r=a\u{e9}",
            "n,,n=,r=a b",
            "n,,n=,r=abc,",
            "n,,n=,r=abc,x",
            "n,,n=\0,r=abc",
            "p=tls-server-end-point,,n=,r=abc",
            "n,,n,r=abc",
        ] {
            assert!(matches!(ClientFirst::parse(bad.as_bytes()), Err(Fault::Malformed(_))), "{bad:?}");
        }
        for unsupported in ["n,a=bob,n=,r=abc", "n,,m=x,n=,r=abc"] {
            let parsed = ClientFirst::parse(unsupported.as_bytes());
            assert!(matches!(parsed, Err(Fault::Unsupported(_))), "{unsupported:?}");
        }
    }

    #[test]
    fn client_final() {
        let proof = super::super::base64(&[7; 32]);
        let good = format!("c=biws,r=abc,p={proof}");
        let parsed = ClientFinal::parse(good.as_bytes()).unwrap();
        assert_eq!((parsed.binding, parsed.nonce, parsed.proof), (&b"biws"[..], &b"abc"[..], [7; 32]));
        assert_eq!(parsed.without_proof, b"c=biws,r=abc");
        for end in 0..good.len() {
            assert!(ClientFinal::parse(&good.as_bytes()[..end]).is_err(), "{}", &good[..end]);
        }
        for bad in [
            format!("r=abc,c=biws,p={proof}"),
            format!("c=biws,r=abc,p={proof},x=y"),
            format!("c=biws,r=abc,,p={proof}"),
            format!("c=biws,p={proof}"),
            format!("c=biws,r=abc,p={proof}AAAA"),
        ] {
            assert!(ClientFinal::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn server_messages() {
        let parsed = ServerFirst::parse(b"r=abcdef,s=c2FsdA==,i=4096").unwrap();
        assert_eq!((parsed.nonce, parsed.salt.as_slice()), (&b"abcdef"[..], &b"salt"[..]));
        for bad in [
            "",
            "r=a",
            "r=a,s=,i=1",
            "r=a,s=c2FsdA==,i=0",
            "r=a,s=c2FsdA==,i=",
            "r=a,s=!,i=1",
            "r=a,s=c2FsdA==,i=4294967295",
            "s=c2FsdA==,i=4096,r=abc",
        ] {
            assert!(ServerFirst::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let signature = super::super::base64(&[1; 32]);
        let parsed = ServerFinal::parse(format!("v={signature}").as_bytes());
        assert_eq!(parsed, Ok(ServerFinal::Signature([1; 32])));
        assert_eq!(ServerFinal::parse(b"e=other-error"), Ok(ServerFinal::Error));
        for bad in ["", "v=", "v=AAAA", "x=y"] {
            assert!(ServerFinal::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
