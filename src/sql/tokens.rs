//! The normalized tokens of one text, cut into statements: what the classifier looks at.

use super::scan::{Kind, Token};

/// A text with its tokens; words are folded to lower case.
pub(super) struct Text<'a> {
    src: &'a [u8],
    folded: Vec<u8>,
    tokens: &'a [Token],
    /// For a bracket, the index of its partner; for others and unmatched ones, itself.
    partner: Vec<u32>,
}

impl<'a> Text<'a> {
    pub(super) fn new(src: &'a [u8], tokens: &'a [Token]) -> Self {
        let mut partner: Vec<u32> = (0..tokens.len() as u32).collect();
        let mut open = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            match (token.kind, src[token.start]) {
                (Kind::Punct, b'(' | b'[') => open.push(at),
                (Kind::Punct, b')' | b']') => {
                    if let Some(start) = open.pop() {
                        partner[start] = at as u32;
                        partner[at] = start as u32;
                    }
                }
                _ => {}
            }
        }
        Self { src, folded: src.to_ascii_lowercase(), tokens, partner }
    }

    /// The statements, empty ones left out. `;` divides outside parentheses (CREATE RULE) and outside the
    /// body of a routine (BEGIN ATOMIC … END).
    pub(super) fn statements(&self) -> Vec<View<'_>> {
        let mut out = Vec::new();
        let (mut from, mut parens, mut body) = (0, 0usize, 0usize);
        for at in 0..self.tokens.len() {
            let view = View { text: self, from, to: at + 1 };
            let here = at - from;
            match (self.tokens[at].kind, view.raw(here)) {
                (Kind::Punct, b"(") => parens += 1,
                (Kind::Punct, b")") => parens = parens.saturating_sub(1),
                (Kind::Punct, b";") if parens == 0 && body == 0 => {
                    out.push(View { text: self, from, to: at });
                    from = at + 1;
                }
                // After AS or a dot the reserved word is a label.
                (Kind::Word, _) if body > 0 && !view.is_label(here) => match view.word(here) {
                    b"case" => body += 1,
                    b"end" => body -= 1,
                    _ => {}
                },
                (Kind::Word, _) if view.is(here, "atomic") && here > 0 && view.is(here - 1, "begin") => {
                    body = usize::from(parens == 0 && view.creates_routine());
                }
                _ => {}
            }
        }
        out.push(View { text: self, from, to: self.tokens.len() });
        out.retain(|v| v.len() > 0);
        out
    }
}

/// Some consecutive tokens; positions count from the first.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    text: &'a Text<'a>,
    from: usize,
    to: usize,
}

impl<'a> View<'a> {
    pub(super) fn len(&self) -> usize {
        self.to - self.from
    }

    /// The number of a token in the whole text.
    pub(super) fn absolute(&self, at: usize) -> usize {
        self.from + at
    }

    fn token(&self, at: usize) -> Option<&'a Token> {
        let index = self.from.checked_add(at)?;
        if index < self.to { self.text.tokens.get(index) } else { None }
    }

    pub(super) fn kind(&self, at: usize) -> Option<Kind> {
        self.token(at).map(|t| t.kind)
    }

    /// The token as it was written; empty past the end.
    pub(super) fn raw(&self, at: usize) -> &'a [u8] {
        self.token(at).map_or(b"", |t| &self.text.src[t.start..t.end])
    }

    /// Where in the text the token ends; 0 past the end.
    pub(super) fn end(&self, at: usize) -> usize {
        self.token(at).map_or(0, |t| t.end)
    }

    /// The word in lower case; empty if the token is no unquoted word.
    pub(super) fn word(&self, at: usize) -> &'a [u8] {
        match self.token(at) {
            Some(t) if t.kind == Kind::Word => &self.text.folded[t.start..t.end],
            _ => b"",
        }
    }

    pub(super) fn is(&self, at: usize, word: &str) -> bool {
        self.word(at) == word.as_bytes()
    }

    /// True if a reserved word can only be a name here.
    fn is_label(&self, at: usize) -> bool {
        at.checked_sub(1).is_some_and(|p| self.is(p, "as") || self.punct(p, b"."))
    }

    pub(super) fn punct(&self, at: usize, text: &[u8]) -> bool {
        self.kind(at) == Some(Kind::Punct) && self.raw(at) == text
    }

    /// The bracket that belongs to the one at `at`; `None` if it has no partner in this statement.
    pub(super) fn partner(&self, at: usize) -> Option<usize> {
        let index = self.from + at;
        let partner = *self.text.partner.get(index)? as usize;
        (partner != index && (self.from..self.to).contains(&partner)).then(|| partner - self.from)
    }

    /// The tokens of `from..to`.
    pub(super) fn slice(&self, from: usize, to: usize) -> View<'a> {
        let to = (self.from + to).min(self.to);
        View { text: self.text, from: (self.from + from).min(to), to }
    }

    /// An identifier as PostgreSQL would store it: folded or unquoted, cut to 63 bytes. `None` for other
    /// tokens, and for names we do not decode.
    pub(super) fn identifier(&self, at: usize) -> Option<Box<str>> {
        let token = self.token(at)?;
        let name = match token.kind {
            Kind::Word => std::str::from_utf8(&self.text.folded[token.start..token.end]).ok()?.to_owned(),
            Kind::Quoted => {
                let inner = &self.text.src[token.start + 1..token.end - 1];
                std::str::from_utf8(inner).ok()?.replace("\"\"", "\"")
            }
            _ => return None,
        };
        let cut = name.floor_char_boundary(63);
        Some(name[..cut].into())
    }

    fn creates_routine(&self) -> bool {
        let at = if self.is(1, "or") { 3 } else { 1 };
        self.is(0, "create") && matches!(self.word(at), b"function" | b"procedure")
    }
}
