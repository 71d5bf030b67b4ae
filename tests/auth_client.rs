//! Clients towards us: an independent client library, wrong answers of every kind, and what outsiders can tell.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests too

use std::sync::Arc;

use pgweir::auth::{AuthError, AuthErrorKind, ClientAuthenticator, ClientExchange, Random, RandomFailed};
use pgweir::auth::{ScramCache, Step, SystemRandom};
use pgweir::config::{AuthMethod, ClientPassword, Secret};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::password;
use proptest::prelude::*;

const USER: &str = "alice";
const RIGHT: &str = "correct horse";

fn authenticator() -> ClientAuthenticator {
    ClientAuthenticator::new(&SystemRandom, Arc::new(ScramCache::new())).unwrap()
}

fn plain() -> ClientPassword {
    ClientPassword::Plain(Secret::new(RIGHT))
}

fn verifier() -> ClientPassword {
    ClientPassword::ScramVerifier(Secret::new(password::scram_sha_256(RIGHT.as_bytes())))
}

fn md5() -> ClientPassword {
    ClientPassword::Md5Hash(Secret::new(password::md5(RIGHT.as_bytes(), USER)))
}

/// What a client of `password` answers to a request, written with another library.
struct Client {
    password: Vec<u8>,
    scram: Option<ScramSha256>,
    binding: fn() -> ChannelBinding,
}

impl Client {
    fn new(password: impl AsRef<[u8]>) -> Self {
        Self { password: password.as_ref().to_vec(), scram: None, binding: ChannelBinding::unsupported }
    }

    fn answer(&mut self, request: &[u8]) -> Vec<u8> {
        let (code, data) = request.split_at(4);
        match code {
            [0, 0, 0, 3] => [self.password.as_slice(), b"\0"].concat(),
            [0, 0, 0, 5] => {
                let hash = md5_hash(USER.as_bytes(), &self.password, data.try_into().unwrap());
                [hash.as_bytes(), b"\0"].concat()
            }
            [0, 0, 0, 10] => {
                assert_eq!(data, b"SCRAM-SHA-256\0\0");
                let scram = ScramSha256::new(&self.password, (self.binding)());
                let length = u32::try_from(scram.message().len()).unwrap().to_be_bytes();
                let body = [b"SCRAM-SHA-256\0".as_slice(), &length, scram.message()].concat();
                self.scram = Some(scram);
                body
            }
            [0, 0, 0, 11] => {
                let scram = self.scram.as_mut().unwrap();
                scram.update(data).unwrap();
                scram.message().to_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, request: &[u8]) {
        assert_eq!(request[..4], [0, 0, 0, 12]);
        self.scram.as_mut().unwrap().finish(&request[4..]).unwrap();
    }
}

/// Codes and lengths of what we sent, how often keys were derived, and the verdict.
struct Outcome {
    sent: Vec<(u8, usize)>,
    derived: usize,
    verdict: Result<Option<Secret>, AuthError>,
}

fn run(
    authenticator: &ClientAuthenticator,
    method: AuthMethod,
    password: Option<&ClientPassword>,
    client: &mut Client,
) -> Outcome {
    let (mut exchange, mut step) =
        ClientExchange::start(authenticator, method, USER, password, &SystemRandom);
    let (mut sent, mut derived) = (Vec::new(), 0);
    let verdict = loop {
        step = match step {
            Step::Send(body) => {
                sent.push((body[3], body.len()));
                exchange.on_message(&client.answer(&body))
            }
            Step::Derive(work) => {
                derived += 1;
                work.run();
                exchange.on_derived()
            }
            Step::Accept(accepted) => {
                if let Some(body) = &accepted.final_message {
                    client.finish(body);
                }
                break Ok(accepted.clear_password);
            }
            Step::Reject(error) => break Err(error),
        };
    };
    assert!(matches!(exchange.on_message(b"more\0"), Step::Reject(_)), "over is over");
    assert!(matches!(exchange.on_derived(), Step::Reject(_)), "over is over");
    Outcome { sent, derived, verdict }
}

#[test]
fn every_method_lets_the_right_password_in_and_no_other() {
    use AuthMethod::{Md5, Password, ScramSha256};
    let table = [
        (Password, plain()),
        (Password, verifier()),
        (Password, md5()),
        (Md5, plain()),
        (Md5, md5()),
        (Md5, verifier()),
        (ScramSha256, plain()),
        (ScramSha256, verifier()),
    ];
    let authenticator = authenticator();
    for (method, stored) in &table {
        let right = run(&authenticator, *method, Some(stored), &mut Client::new(RIGHT));
        let clear = right.verdict.unwrap_or_else(|error| panic!("{method:?} {stored:?}: {error}"));
        assert_eq!(clear.is_some(), *method == Password);
        assert!(clear.is_none_or(|clear| clear == Secret::new(RIGHT)));
        for wrong in ["", "correct hors", "correct horse ", "Correct horse", "\u{fffd}"] {
            let error =
                run(&authenticator, *method, Some(stored), &mut Client::new(wrong)).verdict.unwrap_err();
            assert_eq!(error.message(), "password authentication failed for user \"alice\"");
            assert_eq!((error.sqlstate(), error.detail()), ("28P01", None));
            assert!(error.log_reason().is_some());
        }
    }
}

#[test]
fn trust_asks_nothing() {
    let outcome = run(&authenticator(), AuthMethod::Trust, None, &mut Client::new(""));
    assert!(outcome.sent.is_empty() && outcome.verdict.is_ok());
}

#[test]
fn scram_takes_both_flags_of_clients_without_channel_binding() {
    let authenticator = authenticator();
    for binding in [ChannelBinding::unsupported, ChannelBinding::unrequested] {
        let mut client = Client { binding, ..Client::new(RIGHT) };
        run(&authenticator, AuthMethod::ScramSha256, Some(&plain()), &mut client).verdict.unwrap();
    }
    let mut client =
        Client { binding: || ChannelBinding::tls_server_end_point(vec![1; 32]), ..Client::new(RIGHT) };
    let error =
        run(&authenticator, AuthMethod::ScramSha256, Some(&plain()), &mut client).verdict.unwrap_err();
    assert_eq!(error.sqlstate(), "08P01");
}

#[test]
fn keys_are_derived_once_for_each_password() {
    let authenticator = authenticator();
    let derived = |password: &str| {
        let stored = ClientPassword::Plain(Secret::new(password));
        let outcome = run(&authenticator, AuthMethod::ScramSha256, Some(&stored), &mut Client::new(password));
        outcome.verdict.unwrap();
        outcome.derived
    };
    assert_eq!([derived("one"), derived("one"), derived("two"), derived("two")], [1, 0, 1, 0]);
    authenticator.prepare(USER, &ClientPassword::Plain(Secret::new("three"))).unwrap().run();
    assert_eq!(derived("three"), 0);
    assert!(authenticator.prepare(USER, &ClientPassword::Plain(Secret::new("three"))).is_none());
    assert!(authenticator.prepare(USER, &verifier()).is_none());
}

#[test]
fn passwords_are_prepared_as_postgres_does() {
    let authenticator = authenticator();
    for (stored, typed) in [("I\u{ad}X", "IX"), ("\u{2168}", "IX"), ("a\u{a0}b", "a b"), ("a\u{7}", "a\u{7}")]
    {
        let stored = ClientPassword::Plain(Secret::new(stored));
        run(&authenticator, AuthMethod::ScramSha256, Some(&stored), &mut Client::new(typed)).verdict.unwrap();
    }
}

/// From outside nobody can tell who exists: same messages, same lengths, same error, same salt every time.
#[test]
fn unknown_user_looks_like_a_wrong_password() {
    let authenticator = authenticator();
    authenticator.prepare(USER, &plain()).unwrap().run();
    for method in [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
        let known = run(&authenticator, method, Some(&plain()), &mut Client::new("wrong"));
        let expected = known.verdict.unwrap_err();
        let broken = ClientPassword::ScramVerifier(Secret::new("SCRAM-SHA-256$broken"));
        let empty = ClientPassword::Plain(Secret::new(""));
        for unusable in [None, Some(&broken), Some(&empty)] {
            let unknown = run(&authenticator, method, unusable, &mut Client::new("wrong"));
            let error = unknown.verdict.unwrap_err();
            assert_eq!(unknown.sent, known.sent, "{method:?}");
            assert_eq!(unknown.derived, known.derived, "{method:?}");
            assert_eq!(error.to_string(), expected.to_string());
            assert_eq!(error.sqlstate(), expected.sqlstate());
            assert_ne!(error.log_reason(), expected.log_reason(), "the log tells");
        }
    }
}

#[test]
fn md5_hash_cannot_serve_scram_and_only_the_log_says_so() {
    let outcome = run(&authenticator(), AuthMethod::ScramSha256, Some(&md5()), &mut Client::new(RIGHT));
    let error = outcome.verdict.unwrap_err();
    assert_eq!(error.message(), "password authentication failed for user \"alice\"");
    assert!(error.log_reason().unwrap().contains("MD5"));
}

fn server_first(
    authenticator: &ClientAuthenticator,
    user: &str,
    password: Option<&ClientPassword>,
) -> String {
    let (mut exchange, _) =
        ClientExchange::start(authenticator, AuthMethod::ScramSha256, user, password, &SystemRandom);
    let Step::Send(body) = exchange.on_message(b"SCRAM-SHA-256\0\0\0\0\x0cn,,n=,r=abcd") else { panic!() };
    String::from_utf8(body[4..].to_vec()).unwrap()
}

#[test]
fn salts_last_and_nonces_do_not() {
    let authenticator = authenticator();
    let salt = |message: &str| message.split_once(",s=").unwrap().1.to_owned();
    for password in [None, Some(plain())] {
        let [one, two] = [(); 2].map(|()| server_first(&authenticator, USER, password.as_ref()));
        assert!(one.starts_with("r=abcd") && one.ends_with(",i=4096"));
        assert_ne!(one, two, "fresh nonce");
        assert_eq!(salt(&one), salt(&two));
        assert_ne!(salt(&one), salt(&server_first(&authenticator, "bob", password.as_ref())));
    }
    let other_process = ClientAuthenticator::new(&SystemRandom, Arc::new(ScramCache::new())).unwrap();
    assert_ne!(
        salt(&server_first(&authenticator, USER, None)),
        salt(&server_first(&other_process, USER, None))
    );
}

#[test]
fn first_message_may_come_later() {
    let authenticator = authenticator();
    let (mut exchange, _) = ClientExchange::start(
        &authenticator,
        AuthMethod::ScramSha256,
        USER,
        Some(&verifier()),
        &SystemRandom,
    );
    let Step::Send(body) = exchange.on_message(b"SCRAM-SHA-256\0\xff\xff\xff\xff") else { panic!() };
    assert_eq!(body, [0, 0, 0, 11], "an empty challenge");
    let mut scram = ScramSha256::new(RIGHT.as_bytes(), ChannelBinding::unsupported());
    let Step::Send(body) = exchange.on_message(scram.message()) else { panic!() };
    scram.update(&body[4..]).unwrap();
    let Step::Accept(accepted) = exchange.on_message(scram.message()) else { panic!() };
    scram.finish(&accepted.final_message.unwrap()[4..]).unwrap();
}

#[test]
fn other_mechanisms_and_foreign_nonces_are_protocol_errors() {
    let authenticator = authenticator();
    for first in [&b"SCRAM-SHA-256-PLUS\0\0\0\0\x0cn,,n=,r=abcd"[..], b"PLAIN\0\0\0\0\0", b"\0\0\0\0\0", b""]
    {
        let (mut exchange, _) =
            ClientExchange::start(&authenticator, AuthMethod::ScramSha256, USER, None, &SystemRandom);
        let Step::Reject(error) = exchange.on_message(first) else { panic!("{first:?}") };
        assert_eq!((error.kind(), error.sqlstate()), (AuthErrorKind::Protocol, "08P01"));
    }
    // A proof made for another nonce: the client's half alone, ours cut, ours changed, ours extended.
    let change: [fn(&str) -> String; 4] = [
        |_| "abcd".into(),
        |nonce| nonce[..nonce.len() - 1].into(),
        |nonce| nonce.replace(&nonce[4..], &nonce[4..].to_lowercase().replace('a', "b").replace('c', "d")),
        |nonce| format!("{nonce}x"),
    ];
    for change in change {
        let (mut exchange, _) = ClientExchange::start(
            &authenticator,
            AuthMethod::ScramSha256,
            USER,
            Some(&plain()),
            &SystemRandom,
        );
        let Step::Send(body) = exchange.on_message(b"SCRAM-SHA-256\0\0\0\0\x0cn,,n=,r=abcd") else {
            panic!()
        };
        let text = String::from_utf8(body[4..].to_vec()).unwrap();
        let nonce = text.strip_prefix("r=").unwrap().split(',').next().unwrap();
        let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let answer = format!("c=biws,r={},p={proof}", change(nonce));
        let Step::Reject(error) = exchange.on_message(answer.as_bytes()) else { panic!() };
        assert_eq!((error.message(), error.sqlstate()), ("invalid SCRAM response", "08P01"));
    }
    // The flag of the first message must be repeated.
    let (mut exchange, _) =
        ClientExchange::start(&authenticator, AuthMethod::ScramSha256, USER, Some(&plain()), &SystemRandom);
    let Step::Send(body) = exchange.on_message(b"SCRAM-SHA-256\0\0\0\0\x0cn,,n=,r=abcd") else { panic!() };
    let text = String::from_utf8(body[4..].to_vec()).unwrap();
    let nonce = text.split(',').next().unwrap();
    let answer = format!("c=eSws,{nonce},p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let Step::Reject(error) = exchange.on_message(answer.as_bytes()) else { panic!() };
    assert_eq!(error.sqlstate(), "08P01");
}

#[test]
fn work_that_was_not_run_lets_nobody_in() {
    let mut client = Client::new(RIGHT);
    let (mut exchange, mut step) =
        ClientExchange::start(&authenticator(), AuthMethod::ScramSha256, USER, Some(&plain()), &SystemRandom);
    while let Step::Send(body) = step {
        step = exchange.on_message(&client.answer(&body));
    }
    let Step::Derive(work) = step else { panic!() };
    drop(work);
    let Step::Reject(error) = exchange.on_derived() else { panic!() };
    assert_eq!(error.kind(), AuthErrorKind::Internal);
}

#[test]
fn no_random_bytes_no_exchange() {
    struct Dry;
    impl Random for Dry {
        fn fill(&self, _: &mut [u8]) -> Result<(), RandomFailed> {
            Err(RandomFailed)
        }
    }
    for method in [AuthMethod::Md5, AuthMethod::ScramSha256] {
        let (_, step) = ClientExchange::start(&authenticator(), method, USER, Some(&plain()), &Dry);
        assert!(matches!(step, Step::Reject(error) if error.kind() == AuthErrorKind::Internal));
    }
}

#[test]
fn debug_shows_no_secret() {
    let authenticator = authenticator();
    for stored in [plain(), verifier(), md5()] {
        for method in [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
            let (exchange, _) =
                ClientExchange::start(&authenticator, method, USER, Some(&stored), &SystemRandom);
            let shown = format!("{exchange:?} {authenticator:?}");
            assert!(!shown.contains(RIGHT) && !shown.contains('['), "{shown}");
        }
    }
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Replace(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, by)| Damage::Flip(at, by)),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        prop::collection::vec(any::<u8>(), 0..1500).prop_map(Damage::Replace),
    ]
}

impl Damage {
    fn apply(&self, body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        match self {
            Self::Cut(at) => body.truncate(at.index(body.len())),
            Self::Flip(at, by) => {
                let at = at.index(body.len());
                body[at] ^= by;
            }
            Self::Insert(at, byte) => body.insert(at.index(body.len() + 1), *byte),
            Self::Replace(with) => body.clone_from(with),
        }
        body
    }
}

/// A client that knows the password, with its message number `which` damaged on the way. Whether we let it in
/// although something was damaged.
fn passes_damaged(
    authenticator: &ClientAuthenticator,
    method: AuthMethod,
    which: usize,
    damage: &Damage,
) -> bool {
    let mut client = Client::new(RIGHT);
    let (mut exchange, mut step) =
        ClientExchange::start(authenticator, method, USER, Some(&plain()), &SystemRandom);
    let mut damaged = false;
    for count in 0.. {
        step = match step {
            Step::Send(body) => {
                // The other library may rightly refuse our answer to a damaged message: then nothing more comes.
                if damaged && client.scram.as_mut().is_none_or(|scram| scram.update(&body[4..]).is_err()) {
                    return false;
                }
                let answer = match &client.scram {
                    Some(scram) if damaged => scram.message().to_vec(),
                    _ => client.answer(&body),
                };
                let sent = if count == which { damage.apply(&answer) } else { answer.clone() };
                damaged |= sent != answer;
                exchange.on_message(&sent)
            }
            Step::Derive(work) => {
                work.run();
                exchange.on_derived()
            }
            Step::Accept(_) => return damaged,
            Step::Reject(_) => return false,
        };
    }
    unreachable!("a count has no end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_messages_never_pass(which in 0_usize..2, damage in damage()) {
        let authenticator = authenticator();
        for method in [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
            prop_assert!(!passes_damaged(&authenticator, method, which, &damage), "{method:?} {damage:?}");
        }
    }

    /// Any sequence of bodies from somebody who knows nothing.
    #[test]
    fn noise_never_passes(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5)) {
        let authenticator = authenticator();
        for method in [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
            let (mut exchange, _) =
                ClientExchange::start(&authenticator, method, USER, Some(&plain()), &SystemRandom);
            for body in &bodies {
                prop_assert!(!matches!(exchange.on_message(body), Step::Accept(_)));
            }
        }
    }
}
