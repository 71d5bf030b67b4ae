//! We log in to servers: honest ones, ones that do not know the password, and ones that talk nonsense.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests too

use std::sync::Arc;

use pgweir::auth::{
    AUTHENTICATION_OK, AuthErrorKind, Blame, ClientAuthenticator, ClientExchange, ScramCache,
};
use pgweir::auth::{ServerExchange, ServerStep, Step, SystemRandom};
use pgweir::config::{AuthMethod, ClientPassword, Secret};
use proptest::prelude::*;

const USER: &str = "alice";
const RIGHT: &str = "correct horse";

fn login(password: Option<&str>) -> ServerExchange {
    ServerExchange::new(USER, password.map(Secret::new).as_ref(), Arc::new(ScramCache::new()))
}

/// A PostgreSQL that knows `stored`; `None` is one that only pretends.
struct Server {
    exchange: Option<ClientExchange>,
    step: Option<Step>,
}

impl Server {
    fn new(method: AuthMethod, stored: Option<&str>) -> Self {
        let authenticator = ClientAuthenticator::new(&SystemRandom, Arc::new(ScramCache::new())).unwrap();
        let stored = stored.map(|text| ClientPassword::Plain(Secret::new(text)));
        let (exchange, step) =
            ClientExchange::start(&authenticator, method, USER, stored.as_ref(), &SystemRandom);
        Self { exchange: Some(exchange), step: Some(step) }
    }

    /// Requests to send now; empty if the answer was an error.
    fn requests(&mut self) -> Vec<Vec<u8>> {
        let mut step = self.step.take();
        while let Some(Step::Derive(work)) = step {
            work.run();
            step = Some(self.exchange.as_mut().unwrap().on_derived());
        }
        match step {
            Some(Step::Send(body)) => vec![body],
            Some(Step::Accept(accepted)) => {
                accepted.final_message.into_iter().chain([AUTHENTICATION_OK.to_vec()]).collect()
            }
            _ => Vec::new(),
        }
    }

    fn take(&mut self, response: &[u8]) {
        self.step = Some(self.exchange.as_mut().unwrap().on_message(response));
    }
}

/// Runs both; `change` may tamper with each request by its number. How often keys were derived, and the end:
/// `None` if the server refused.
fn run(
    exchange: &mut ServerExchange,
    server: &mut Server,
    change: impl Fn(usize, Vec<u8>) -> Vec<u8>,
) -> (usize, Option<ServerStep>) {
    let (mut number, mut derived) = (0, 0);
    loop {
        let requests = server.requests();
        if requests.is_empty() {
            return (derived, None);
        }
        for request in requests {
            let mut step = exchange.on_request(&change(number, request), &SystemRandom);
            number += 1;
            if let ServerStep::Derive(work) = step {
                derived += 1;
                work.run();
                step = exchange.on_derived();
            }
            match step {
                ServerStep::Send(response) => server.take(&response),
                ServerStep::Continue => {}
                end => return (derived, Some(end)),
            }
        }
    }
}

fn untouched(_: usize, request: Vec<u8>) -> Vec<u8> {
    request
}

#[test]
fn every_method_with_the_right_password_and_no_other() {
    for method in [AuthMethod::Trust, AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
        let (_, end) = run(&mut login(Some(RIGHT)), &mut Server::new(method, Some(RIGHT)), untouched);
        assert!(matches!(end, Some(ServerStep::Done)), "{method:?}: {end:?}");
        if method != AuthMethod::Trust {
            let (_, end) = run(&mut login(Some("wrong")), &mut Server::new(method, Some(RIGHT)), untouched);
            assert!(end.is_none(), "{method:?}: {end:?}");
        }
    }
}

#[test]
fn keys_are_derived_once_for_each_server_and_password() {
    let cache = Arc::new(ScramCache::new());
    let authenticator = ClientAuthenticator::new(&SystemRandom, Arc::new(ScramCache::new())).unwrap();
    let derived = |password: &str| {
        let mut exchange = ServerExchange::new(USER, Some(&Secret::new(password)), Arc::clone(&cache));
        let stored = ClientPassword::Plain(Secret::new(RIGHT));
        let (peer, step) = ClientExchange::start(
            &authenticator,
            AuthMethod::ScramSha256,
            USER,
            Some(&stored),
            &SystemRandom,
        );
        let (derived, end) =
            run(&mut exchange, &mut Server { exchange: Some(peer), step: Some(step) }, untouched);
        (derived, matches!(end, Some(ServerStep::Done)))
    };
    assert_eq!(derived("wrong"), (1, false));
    assert_eq!(derived(RIGHT), (1, true), "a corrected password is not answered with the old keys");
    assert_eq!(derived(RIGHT), (0, true));
}

#[test]
fn a_server_must_prove_that_it_knows_the_password() {
    // It skips its proof.
    let skip = |number: usize, request: Vec<u8>| {
        if number == 2 { AUTHENTICATION_OK.to_vec() } else { request }
    };
    // It makes one up.
    let forge = |number: usize, request: Vec<u8>| {
        let forged = b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        if number == 2 { forged.to_vec() } else { request }
    };
    // It accepts right after the client's first message.
    let hurry = |number: usize, request: Vec<u8>| {
        if number == 1 { AUTHENTICATION_OK.to_vec() } else { request }
    };
    let changes: [&dyn Fn(usize, Vec<u8>) -> Vec<u8>; 3] = [&skip, &forge, &hurry];
    for change in changes {
        let mut server = Server::new(AuthMethod::ScramSha256, Some(RIGHT));
        let (_, end) = run(&mut login(Some(RIGHT)), &mut server, change);
        let Some(ServerStep::Fail(error)) = end else { panic!("{end:?}") };
        assert_eq!((error.kind(), error.blame()), (AuthErrorKind::ServerUnproven, Blame::Server));
    }
}

#[test]
fn challenges_that_cannot_be_ours_are_refused() {
    let proofs = [
        "r=,s=c2FsdA==,i=4096",
        "r=someoneelsesnonce,s=c2FsdA==,i=4096",
        "r={nonce},s=c2FsdA==,i=4096", // adds nothing of its own
        "r={nonce}x,s=,i=4096",
        "r={nonce}x,s=c2FsdA==,i=0",
        "r={nonce}x,s=c2FsdA==,i=1000001", // would keep a thread busy
        "r={nonce}x,s=c2FsdA==",
        "m=ext,r={nonce}x,s=c2FsdA==,i=4096",
        "e=other-error",
        "",
    ];
    for proof in proofs {
        let mut exchange = login(Some(RIGHT));
        let step = exchange.on_request(b"\0\0\0\x0aSCRAM-SHA-256\0\0", &SystemRandom);
        let ServerStep::Send(response) = step else { panic!() };
        let text = String::from_utf8(response).unwrap();
        let nonce = text.split_once("r=").unwrap().1;
        let request = [b"\0\0\0\x0b", proof.replace("{nonce}", nonce).as_bytes()].concat();
        let step = exchange.on_request(&request, &SystemRandom);
        assert!(matches!(step, ServerStep::Fail(_)), "{proof}: {step:?}");
        let again = exchange.on_request(&AUTHENTICATION_OK, &SystemRandom);
        assert!(matches!(again, ServerStep::Fail(_)), "over is over");
    }
}

#[test]
fn what_we_cannot_serve_is_said_clearly() {
    let table: [(&[u8], &str); 8] = [
        (b"\0\0\0\x07", "GSSAPI"),
        (b"\0\0\0\x09", "SSPI"),
        (b"\0\0\0\x02", "Kerberos V5"),
        (b"\0\0\0\x63", "method 99"),
        (b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0", "no SASL mechanism"),
        (b"\0\0\0\x0aSCRAM-SHA-256", "unexpected authentication request"),
        (b"\0\0\0\x05abc", "four bytes"),
        (b"\0\0", "unexpected authentication request"),
    ];
    for (request, words) in table {
        let ServerStep::Fail(error) = login(Some(RIGHT)).on_request(request, &SystemRandom) else { panic!() };
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.blame(), Blame::Server);
    }
}

#[test]
fn without_a_password_nothing_is_sent() {
    let requests: [&[u8]; 3] = [b"\0\0\0\x03", b"\0\0\0\x05abcd", b"\0\0\0\x0aSCRAM-SHA-256\0\0"];
    for request in requests {
        for password in [None, Some("")] {
            let ServerStep::Fail(error) = login(password).on_request(request, &SystemRandom) else {
                panic!()
            };
            assert_eq!((error.kind(), error.blame()), (AuthErrorKind::PasswordMissing, Blame::Pooler));
            assert!(error.message().contains("\"alice\""), "{error}");
        }
    }
    let step = login(None).on_request(&AUTHENTICATION_OK, &SystemRandom);
    assert!(matches!(step, ServerStep::Done));
}

#[test]
fn work_that_was_not_run_is_an_error() {
    let mut server = Server::new(AuthMethod::ScramSha256, Some(RIGHT));
    let mut exchange = login(Some(RIGHT));
    let ServerStep::Send(response) = exchange.on_request(&server.requests()[0], &SystemRandom) else {
        panic!()
    };
    server.take(&response);
    let step = exchange.on_request(&server.requests()[0], &SystemRandom);
    assert!(matches!(step, ServerStep::Derive(_)));
    assert!(!format!("{exchange:?} {step:?}").contains(RIGHT));
    drop(step);
    let ServerStep::Fail(error) = exchange.on_derived() else { panic!() };
    assert_eq!(error.kind(), AuthErrorKind::Internal);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// A challenge or proof damaged on the way: never a panic, never logged in.
    #[test]
    fn damaged_requests_never_pass(
        which in 1_usize..3,
        cut in any::<bool>(),
        at in any::<prop::sample::Index>(),
        by in 1_u8..,
    ) {
        let damage = |number: usize, mut request: Vec<u8>| {
            if number == which {
                let at = at.index(request.len());
                if cut { request.truncate(at) } else { request[at] ^= by }
            }
            request
        };
        let mut server = Server::new(AuthMethod::ScramSha256, Some(RIGHT));
        let (_, end) = run(&mut login(Some(RIGHT)), &mut server, damage);
        prop_assert!(!matches!(end, Some(ServerStep::Done)));
    }

    /// Any requests at all: only a bare `AuthenticationOk` at the start, or after a password went out, is a login.
    #[test]
    fn noise_never_panics(requests in prop::collection::vec((0_u32..14, prop::collection::vec(any::<u8>(), 0..60)), 1..5)) {
        let mut exchange = login(Some(RIGHT));
        for (code, data) in requests {
            let ok = code == 0 && data.is_empty();
            let step = exchange.on_request(&[&code.to_be_bytes()[..], &data].concat(), &SystemRandom);
            prop_assert!(ok || !matches!(step, ServerStep::Done));
        }
    }
}
