//! A client's batch for several servers: messages that mean the same to each, and the client's answer out of one of
//! theirs.
//!
//! The client's names of statements are its own. So each Bind and Describe of a statement travels with its text, as
//! the unnamed statement, and what the server says of that is left out of the answer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::protocol::extended::{self, Bind, Parse, Target as Named};
use crate::protocol::{BackendTag, FrontendTag, Reader, backend, frame, frontend};
use crate::server::{Answer, Definition};
use crate::shard::ShardNumber;
use crate::sql::{SessionEffects, Split, SplitPart};

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

/// What one member of a divided INSERT is sent.
pub(super) struct PartRequest {
    /// The shard.
    pub(super) shard: ShardNumber,
    /// Messages that end with a Query or a Sync.
    pub(super) request: BytesMut,
}

/// The messages of a batch that is one divided INSERT, for each of its shards. `None` where the batch asks about the
/// statement itself: it is not the one that runs.
pub(super) fn divided(
    batch: &[u8],
    plan: &Plan,
    statements: &ClientStatements,
    split: &Split,
) -> Option<Vec<PartRequest>> {
    let part = |part: &SplitPart| {
        let mut request = BytesMut::new();
        let mut is_query = false;
        let mut definitions = plan.definitions.iter();
        let mut fresh: Vec<(&[u8], Option<Arc<Definition>>)> = Vec::new();
        let mut rest = batch;
        while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
            let whole = rest.get(..header.total_len).unwrap_or_default();
            rest = tail;
            match FrontendTag(header.tag) {
                FrontendTag::QUERY => {
                    is_query = true;
                    frontend::query(&mut request, &part.sql);
                }
                FrontendTag::PARSE => {
                    fresh.push((Parse::read(body).ok()?.name, definitions.next().cloned().flatten()));
                }
                FrontendTag::BIND => {
                    let bind = Bind::read(body).ok()?;
                    let known = fresh.iter().rev().find(|(name, _)| *name == bind.statement);
                    let definition = match known {
                        Some((_, definition)) => definition.clone(),
                        None => statements.find(bind.statement).cloned(),
                    }?;
                    let types = chosen_types(&definition.types, &part.parameters)?;
                    Parse { name: b"", sql: &part.sql, types: &types }.write(&mut request, b"");
                    let rest = chosen_values(bind.rest, part)?;
                    Bind { portal: bind.portal, statement: b"", rest: &rest }.write(&mut request, b"");
                }
                FrontendTag::DESCRIBE => match extended::target(body).ok()? {
                    (Named::Portal, _) => request.extend_from_slice(whole),
                    (Named::Statement, _) => return None,
                },
                FrontendTag::EXECUTE => request.extend_from_slice(whole),
                _ => {}
            }
        }
        if !is_query {
            frontend::sync(&mut request);
        }
        Some(PartRequest { shard: part.shard, request })
    };
    split.parts.iter().map(part).collect()
}

/// The declared types of these parameters, as in Parse.
fn chosen_types(types: &[u8], parameters: &[u32]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(types);
    let declared: Vec<i32> = (0..reader.u16().ok()?).map(|_| reader.i32().unwrap_or(0)).collect();
    let mut out = u16::try_from(parameters.len()).ok()?.to_be_bytes().to_vec();
    for parameter in parameters {
        let at = usize::try_from(*parameter).ok()?.checked_sub(1)?;
        out.extend(declared.get(at).copied().unwrap_or(0).to_be_bytes());
    }
    Some(out)
}

/// Formats and values of these parameters, and the formats of the results, as in Bind.
fn chosen_values(rest: &[u8], part: &SplitPart) -> Option<Vec<u8>> {
    let parameters = &part.parameters;
    let mut reader = Reader::new(rest);
    let formats: Vec<i16> = (0..reader.u16().ok()?).map(|_| reader.i16()).collect::<Result<_, _>>().ok()?;
    let mut values = Vec::new();
    for _ in 0..reader.u16().ok()? {
        let len = reader.i32().ok()?;
        let bytes = match usize::try_from(len) {
            Ok(len) => Some(reader.bytes(len).ok()?),
            Err(_) => None,
        };
        values.push((len, bytes));
    }
    let count = u16::try_from(parameters.len()).ok()?.to_be_bytes();
    let mut out = count.to_vec();
    let place = |parameter: &u32| usize::try_from(*parameter).ok()?.checked_sub(1);
    for parameter in parameters {
        let format = match formats.as_slice() {
            [] => 0,
            [one] => *one,
            each => *each.get(place(parameter)?)?,
        };
        out.extend(format.to_be_bytes());
    }
    out.extend(count);
    for parameter in parameters {
        if let Some((_, value)) = part.replaced.iter().find(|(number, _)| number == parameter) {
            out.extend(i32::try_from(value.len()).ok()?.to_be_bytes());
            out.extend(value);
            continue;
        }
        let (len, bytes) = values.get(place(parameter)?)?;
        out.extend(len.to_be_bytes());
        out.extend(bytes.unwrap_or_default());
    }
    out.extend(reader.rest());
    Some(out)
}

/// One answer out of those of the parts of a divided INSERT: all rows in the order of the statement, and their number.
/// `None` if they do not fit together.
pub(super) fn united(answers: &[Answer], split: &Split) -> Option<Answer> {
    let mut rows: Vec<Vec<&[u8]>> = Vec::new();
    let mut total = 0_u64;
    for answer in answers {
        let mut own = Vec::new();
        let mut rest = &answer.messages[..];
        while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
            let whole = rest.get(..header.total_len).unwrap_or_default();
            rest = tail;
            match BackendTag(header.tag) {
                BackendTag::DATA_ROW => own.push(whole),
                BackendTag::COMMAND_COMPLETE => {
                    let tag = std::str::from_utf8(body.strip_suffix(b"\0")?).ok()?;
                    total += tag.strip_prefix("INSERT 0 ")?.parse::<u64>().ok()?;
                }
                BackendTag::PORTAL_SUSPENDED => return None,
                _ => {}
            }
        }
        rows.push(own);
    }
    let fits = |(own, part): (&Vec<&[u8]>, &SplitPart)| own.len() == part.rows;
    if split.returning && !rows.iter().zip(&split.parts).all(fits) {
        return None;
    }
    let mut one = Answer::default();
    let mut rest = &answers.first()?.messages[..];
    while let Ok(Some((header, _, tail))) = frame::split(rest, usize::MAX) {
        let whole = rest.get(..header.total_len).unwrap_or_default();
        rest = tail;
        match BackendTag(header.tag) {
            BackendTag::DATA_ROW => {}
            BackendTag::COMMAND_COMPLETE => {
                if split.returning {
                    for place in &split.order {
                        one.messages.extend_from_slice(rows.get(place.part)?.get(place.row)?);
                    }
                }
                backend::command_complete(&mut one.messages, &format!("INSERT 0 {total}"));
            }
            _ => one.messages.extend_from_slice(whole),
        }
    }
    Some(one)
}

impl Mirror {
    /// Of a batch.
    pub(super) fn of(batch: &[u8], plan: &Plan, statements: &ClientStatements) -> Self {
        let mut mirror = Self { clears: plan.deallocates_all, ..Self::default() };
        let names = SessionEffects::DEALLOCATE;
        if plan.queries == 1 && plan.effects != SessionEffects::NONE && plan.effects.union(names) == names {
            mirror.local = Some(if plan.deallocates_all { "DEALLOCATE ALL" } else { "DEALLOCATE" });
        }
        if let (Some(_), Some(name)) = (mirror.local, &plan.rare().deallocated) {
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
        }
        self.steps.push(Step::OwnParse);
    }

    /// The client's statements after the batch.
    pub(super) fn define(&self, statements: &mut ClientStatements) {
        if self.clears {
            statements.clear_named();
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
