//! Gives every node of the tree its line and column.
//!
//! `serde_yaml` tells the place of its first error only, so the text is walked a second time by a
//! parser that reports events with positions, in step with the tree. Where the two disagree (an
//! alias stands for a whole subtree), everything below takes the place where they parted; a
//! position can then be less exact, never missing.

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::errors::Origin;
use super::node::{Kind, Node, Value};

/// Sets the origins in `root`, the tree made from `text`.
pub(super) fn locate(root: &mut Node, text: &str) {
    let mut events = Events { parser: Parser::new_from_str(text) };
    while let Some((event, span)) = events.next() {
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            event => return events.node(root, event, span),
        }
    }
}

struct Events<'a> {
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Events<'a> {
    /// The next event; none at the end and after an error.
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        self.parser.next_event()?.ok()
    }

    /// Gives `node` and all below it their places; `event` is its first.
    fn node(&mut self, node: &mut Node, event: Event<'a>, span: Span) {
        node.origin = origin(span);
        match (&mut node.value, event) {
            (Value::Map(entries), Event::MappingStart(..)) => {
                let mut entries = entries.iter_mut();
                while let Some((event, span)) = self.next() {
                    if event == Event::MappingEnd {
                        return;
                    }
                    let Some(entry) = entries.next() else { return };
                    entry.origin = origin(span);
                    match event {
                        Event::Scalar(text, ..) => entry.key = text.into_owned(),
                        other => self.skip(&other),
                    }
                    let Some((event, span)) = self.next() else { return };
                    self.node(&mut entry.node, event, span);
                }
            }
            (Value::List(nodes), Event::SequenceStart(..)) => {
                let mut nodes = nodes.iter_mut();
                while let Some((event, span)) = self.next() {
                    if event == Event::SequenceEnd {
                        return;
                    }
                    let Some(node) = nodes.next() else { return };
                    self.node(node, event, span);
                }
            }
            // The text as written: YAML would make 123 of 0123 and 100000 of 1e5.
            (
                Value::Scalar { text, kind: Kind::Bool | Kind::Number },
                Event::Scalar(written, ScalarStyle::Plain, ..),
            ) => {
                *text = written.into_owned();
            }
            (_, event) => {
                let origin = node.origin.clone();
                spread(node, &origin);
                self.skip(&event);
            }
        }
    }

    /// Passes over the rest of what `event` begins.
    fn skip(&mut self, event: &Event<'_>) {
        let mut depth = usize::from(matches!(event, Event::MappingStart(..) | Event::SequenceStart(..)));
        while depth > 0 {
            match self.next() {
                Some((Event::MappingStart(..) | Event::SequenceStart(..), _)) => depth += 1,
                Some((Event::MappingEnd | Event::SequenceEnd, _)) => depth -= 1,
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// Gives all below `node` the place `at`.
fn spread(node: &mut Node, at: &Origin) {
    node.origin = at.clone();
    match &mut node.value {
        Value::Null | Value::Scalar { .. } => {}
        Value::List(nodes) => nodes.iter_mut().for_each(|n| spread(n, at)),
        Value::Map(entries) => {
            for entry in entries {
                entry.origin = at.clone();
                spread(&mut entry.node, at);
            }
        }
    }
}

fn origin(span: Span) -> Origin {
    Origin::File { line: span.start.line(), column: span.start.col() + 1 }
}
