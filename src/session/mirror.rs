//! A client's batch for several servers: messages that mean the same to each, and the client's answer out of one of
//! theirs.
//!
//! The client's names of statements are its own. So each Bind and Describe of a statement travels with its text, as
//! the unnamed statement, and what the server says of that is left out of the answer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::protocol::extended::{self, Bind, Parse, Target as Named};
use crate::protocol::{BackendTag, FrontendTag, backend, frame, frontend};
use crate::server::{Answer, Definition};
use crate::sql::SessionEffects;

use super::batch::Plan;
use super::statements::ClientStatements;

/// What is sent, and how the answer is read.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// Messages that end with a Query or a Sync.
    pub(super) request: BytesMut,
    steps: Vec<Step>,
    /// Names that the client's batch gives and takes.
    defines: Vec<(Bytes, Option<Arc<Definition>>)>,
    /// It concerns the client's statements alone, and this is the answer.
    local: Option<&'static str>,
    clears: bool,
    is_query: bool,
}

/// What answers one message of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// This, which no server says.
    Inject(BackendTag),
    /// The tag of a command that no server runs.
    Command(&'static str),
    /// Nothing: a Parse of ours.
    OwnParse,
    /// Everything up to one of these.
    Until(&'static [BackendTag]),
}

const BOUND: Step = Step::Until(&[BackendTag::BIND_COMPLETE]);
const DESCRIBED: Step = Step::Until(&[BackendTag::ROW_DESCRIPTION, BackendTag::NO_DATA]);
const CLOSED: Step = Step::Until(&[BackendTag::CLOSE_COMPLETE]);
const EXECUTED: Step = Step::Until(&[
    BackendTag::COMMAND_COMPLETE,
    BackendTag::EMPTY_QUERY_RESPONSE,
    BackendTag::PORTAL_SUSPENDED,
]);

impl Mirror {
    /// Of a batch.
    pub(super) fn of(batch: &[u8], plan: &Plan, statements: &ClientStatements) -> Self {
        let mut mirror = Self { clears: plan.deallocates_all, ..Self::default() };
        let names = SessionEffects::DEALLOCATE;
        if plan.queries == 1 && plan.effects != SessionEffects::NONE && plan.effects.union(names) == names {
            mirror.local = Some(if plan.deallocates_all { "DEALLOCATE ALL" } else { "DEALLOCATE" });
        }
        if let (Some(_), Some(name)) = (mirror.local, &plan.deallocated) {
            mirror.defines.push((Bytes::copy_from_slice(name), None));
        }
        let mut definitions = plan.definitions.iter();
        let mut rest = batch;
        while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
            let whole = rest.get(..header.total_len).unwrap_or_default();
            rest = tail;
            match FrontendTag(header.tag) {
                FrontendTag::QUERY => {
                    mirror.is_query = true;
                    mirror.steps.extend(mirror.local.map(Step::Command));
                    mirror.request.extend_from_slice(whole);
                }
                FrontendTag::PARSE => {
                    let Ok(parse) = Parse::read(body) else { continue };
                    let definition = definitions.next().cloned().flatten();
                    mirror.steps.push(Step::Inject(BackendTag::PARSE_COMPLETE));
                    mirror.defines.push((Bytes::copy_from_slice(parse.name), definition));
                }
                FrontendTag::BIND if mirror.local.is_some() => {
                    mirror.steps.push(Step::Inject(BackendTag::BIND_COMPLETE));
                }
                FrontendTag::BIND => {
                    let Ok(bind) = Bind::read(body) else { continue };
                    mirror.prepare(bind.statement, statements);
                    bind.write(&mut mirror.request, b"");
                    mirror.steps.push(BOUND);
                }
                FrontendTag::DESCRIBE if mirror.local.is_some() => {
                    mirror.steps.push(Step::Inject(BackendTag::NO_DATA));
                }
                FrontendTag::DESCRIBE => {
                    match extended::target(body) {
                        Ok((Named::Statement, name)) => {
                            mirror.prepare(name, statements);
                            extended::describe_statement(&mut mirror.request, b"");
                        }
                        _ => mirror.request.extend_from_slice(whole),
                    }
                    mirror.steps.push(DESCRIBED);
                }
                FrontendTag::EXECUTE => match mirror.local {
                    Some(tag) => mirror.steps.push(Step::Command(tag)),
                    None => {
                        mirror.request.extend_from_slice(whole);
                        mirror.steps.push(EXECUTED);
                    }
                },
                FrontendTag::CLOSE => match extended::target(body) {
                    Ok((Named::Statement, name)) => {
                        mirror.defines.push((Bytes::copy_from_slice(name), None));
                        mirror.steps.push(Step::Inject(BackendTag::CLOSE_COMPLETE));
                    }
                    _ => {
                        mirror.request.extend_from_slice(whole);
                        mirror.steps.push(CLOSED);
                    }
                },
                _ => {}
            }
        }
        if !mirror.is_query {
            // A Flush, too: between Syncs in a transaction nothing is lost.
            frontend::sync(&mut mirror.request);
        }
        mirror
    }

    /// Nothing of it is for a server.
    pub(super) fn is_local(&self) -> bool {
        self.local.is_some()
            || (!self.is_query && self.steps.iter().all(|step| matches!(step, Step::Inject(_))))
    }

    /// Sends a statement's text along. What is no statement, the server says.
    fn prepare(&mut self, name: &[u8], statements: &ClientStatements) {
        let fresh = self.defines.iter().rev().find(|(known, _)| known == name);
        let definition = match fresh {
            Some((_, definition)) => definition.clone(),
            None => statements.find(name).cloned(),
        };
        if let Some(definition) = definition {
            let parse = Parse { name: b"", sql: &definition.sql, types: &definition.types };
            parse.write(&mut self.request, b"");
        } else {
            // Of this name there is none anywhere.
            extended::close_statement(&mut self.request, b"");
            self.steps.push(Step::OwnParse);
            return;
        }
        self.steps.push(Step::OwnParse);
    }

    /// The client's statements after the batch.
    pub(super) fn define(&self, statements: &mut ClientStatements) {
        if self.clears {
            statements.clear();
        }
        for (name, definition) in &self.defines {
            statements.set(name, definition.clone());
        }
    }

    /// As a server would answer this batch, had it run a command with this tag.
    pub(super) fn acknowledge(&self, out: &mut BytesMut, tag: &str) {
        if self.is_query {
            backend::command_complete(out, tag);
            return;
        }
        for step in &self.steps {
            match *step {
                Step::OwnParse => backend::bare(out, BackendTag::PARSE_COMPLETE),
                BOUND => backend::bare(out, BackendTag::BIND_COMPLETE),
                DESCRIBED => backend::bare(out, BackendTag::NO_DATA),
                EXECUTED => backend::command_complete(out, tag),
                CLOSED => backend::bare(out, BackendTag::CLOSE_COMPLETE),
                Step::Inject(_) | Step::Command(_) | Step::Until(_) => {}
            }
        }
    }
}

/// What the client gets for a server's answer, up to the error in it.
pub(super) fn answered(answer: &Answer, mirror: &Mirror) -> BytesMut {
    let mut out = BytesMut::new();
    let mut rest = &answer.messages[..];
    for step in &mirror.steps {
        let ends: &[BackendTag] = match step {
            Step::Inject(tag) => {
                backend::bare(&mut out, *tag);
                continue;
            }
            Step::Command(tag) => {
                backend::command_complete(&mut out, tag);
                continue;
            }
            Step::OwnParse => &[BackendTag::PARSE_COMPLETE, BackendTag::CLOSE_COMPLETE],
            Step::Until(ends) => ends,
        };
        while let Ok(Some((header, _, tail))) = frame::split(rest, usize::MAX) {
            let whole = rest.get(..header.total_len).unwrap_or_default();
            rest = tail;
            let tag = BackendTag(header.tag);
            let is_end = ends.contains(&tag);
            if !(is_end && *step == Step::OwnParse) {
                out.extend_from_slice(whole);
            }
            if tag == BackendTag::ERROR_RESPONSE {
                return out;
            }
            if is_end {
                break;
            }
        }
    }
    out.extend_from_slice(rest);
    out
}

/// What of an answer must be the same on all shards: rows, and what the commands say.
pub(super) fn shown(answer: &Answer) -> Vec<u8> {
    let mut same = Vec::new();
    let mut rest = &answer.messages[..];
    while let Ok(Some((header, _, tail))) = frame::split(rest, usize::MAX) {
        let whole = rest.get(..header.total_len).unwrap_or_default();
        rest = tail;
        if matches!(BackendTag(header.tag), BackendTag::DATA_ROW | BackendTag::COMMAND_COMPLETE) {
            same.extend_from_slice(whole);
        }
    }
    same
}
