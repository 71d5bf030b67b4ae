//! Against the originals: we log in to a real PostgreSQL, and libpq logs in to us, both also over TLS.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests too

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pgweir::auth::{AUTHENTICATION_OK, ClientAuthenticator, ClientExchange, ScramCache};
use pgweir::auth::{ServerExchange, ServerStep, Step, SystemRandom};
use pgweir::cli::local_cluster::{LocalCluster, LocalClusterOptions};
use pgweir::config::{
    AuthMethod, ClientPassword, ClientTls, ClientTlsMode, Secret, ServerTls, ServerTlsMode,
};
use pgweir::net::tls::{ClientTlsAcceptor, ServerTlsConnector};

/// Passwords that `SASLprep` changes, rejects or leaves alone.
const PASSWORDS: [&str; 9] = [
    "secret",
    "p\u{e4}ssw\u{f6}rd",
    "I\u{ad}X",
    "\u{2168}",
    "a\u{a0}b",
    "\u{ad}",
    "a\u{7}b",
    "\u{221}nassigned in Unicode 3.2",
    "\u{627}1", // right to left, ends with a digit: prohibited
];

trait Socket: Read + Write {}
impl<T: Read + Write> Socket for T {}

fn send(stream: &mut dyn Socket, tag: u8, body: &[u8]) {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    stream.write_all(&[&[tag][..], &length, body].concat()).unwrap();
    stream.flush().unwrap();
}

fn receive(stream: &mut dyn Socket) -> (u8, Vec<u8>) {
    let mut tag = [0];
    stream.read_exact(&mut tag).unwrap();
    (tag[0], receive_body(stream))
}

fn receive_body(stream: &mut dyn Socket) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body).unwrap();
    body
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Logs in; `Err` is what PostgreSQL or our side said.
fn log_in(
    stream: &mut dyn Socket,
    user: &str,
    password: &str,
    cache: &Arc<ScramCache>,
) -> Result<(), String> {
    let startup = format!("user\0{user}\0database\0postgres\0\0");
    let length = u32::try_from(startup.len() + 8).unwrap().to_be_bytes();
    stream.write_all(&[&length, &[0, 3, 0, 0], startup.as_bytes()].concat()).unwrap();
    let mut exchange = ServerExchange::new(user, Some(&Secret::new(password)), Arc::clone(cache));
    loop {
        let (tag, body) = receive(stream);
        if tag == b'E' {
            return Err(String::from_utf8_lossy(&body).replace('\0', " "));
        }
        assert_eq!(tag, b'R');
        let mut step = exchange.on_request(&body, &SystemRandom);
        if let ServerStep::Derive(work) = step {
            work.run();
            step = exchange.on_derived();
        }
        match step {
            ServerStep::Send(response) => send(stream, b'p', &response),
            ServerStep::Continue => {}
            ServerStep::Done => return Ok(()),
            ServerStep::Fail(error) => return Err(error.to_string()),
            ServerStep::Derive(_) => panic!("asked twice"),
        }
    }
}

/// A certificate for 127.0.0.1 that is its own authority's, in `cert.pem`, `key.pem` and `ca.pem`.
fn write_certificates(folder: &Path) {
    let mut authority = rcgen::CertificateParams::new([]).unwrap();
    // OpenSSL takes a certificate whose issuer has its own name for self-signed.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(folder.join("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    fs::write(folder.join("cert.pem"), params.signed_by(&own, &issuer).unwrap().pem()).unwrap();
    fs::write(folder.join("key.pem"), own.serialize_pem()).unwrap();
}

/// One PostgreSQL for all tests here; its janitor stops it when the process is gone.
fn cluster() -> &'static LocalCluster {
    static CLUSTER: OnceLock<LocalCluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let mut options = LocalClusterOptions::with_replicas(0);
        for method in ["trust", "password", "md5", "scram-sha-256"] {
            options.hba.push(format!("host all \"{method}\" 127.0.0.1/32 {method}"));
        }
        options.hba.push("hostssl all secure 127.0.0.1/32 scram-sha-256".into());
        options.hba.push("host all secure 127.0.0.1/32 reject".into());
        LocalCluster::start(&options).unwrap()
    })
}

#[test]
fn we_log_in_to_postgres() {
    let cluster = cluster();
    let sql = |text: &str| cluster.psql(0, "postgres", text).unwrap();
    let port = cluster.access().port(0);
    let cache = Arc::new(ScramCache::new());

    for (method, stored) in [
        ("trust", "md5"),
        ("password", "md5"),
        ("md5", "md5"),
        ("md5", "scram-sha-256"),
        ("scram-sha-256", "scram-sha-256"),
    ] {
        sql(&format!(
            "SET password_encryption = '{stored}'; DROP ROLE IF EXISTS \"{method}\"; \
             CREATE ROLE \"{method}\" LOGIN PASSWORD 'right'"
        ));
        log_in(&mut connect(port), method, "right", &cache)
            .unwrap_or_else(|e| panic!("{method} {stored}: {e}"));
        if method != "trust" {
            let error = log_in(&mut connect(port), method, "wrong", &cache).unwrap_err();
            assert!(error.contains("28P01"), "{method} {stored}: {error}");
        }
    }

    for password in PASSWORDS {
        sql(&format!("ALTER ROLE \"scram-sha-256\" PASSWORD '{password}'"));
        log_in(&mut connect(port), "scram-sha-256", password, &cache)
            .unwrap_or_else(|error| panic!("{password:?}: {error}"));
        // The verifier it made of the password serves our own clients too.
        let stored = sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram-sha-256'");
        let stored = ClientPassword::ScramVerifier(Secret::new(stored.trim()));
        let said = psql(AuthMethod::ScramSha256, stored, password, None, "");
        assert!(said.contains("let in by the test"), "{password:?}: {said}");
    }

    // TLS, verified in full; PostgreSQL wants its key for itself.
    let data = cluster.data_directory(0).unwrap();
    write_certificates(&data);
    let owner = fs::metadata(&data).unwrap();
    for file in ["cert.pem", "key.pem", "ca.pem"] {
        chown(data.join(file), Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::set_permissions(data.join(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    for (key, value) in [("ssl_cert_file", "cert.pem"), ("ssl_key_file", "key.pem"), ("ssl", "on")] {
        sql(&format!("ALTER SYSTEM SET {key} = '{value}'"));
    }
    sql("SET password_encryption = 'scram-sha-256'; CREATE ROLE secure LOGIN PASSWORD 'right'");
    sql("SELECT pg_reload_conf()");
    let settings = ServerTls { mode: ServerTlsMode::VerifyFull, ca: Some(data.join("ca.pem")) };
    let connector = ServerTlsConnector::load(&settings).unwrap().unwrap();
    let begun = std::time::Instant::now();
    let mut stream = loop {
        let mut stream = connect(port);
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        if answer == *b"S" {
            break stream;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the reload does not come");
        thread::sleep(Duration::from_millis(10));
    };
    let name = connector.server_name("127.0.0.1").unwrap();
    let mut tls = rustls::ClientConnection::new(connector.current(), name).unwrap();
    // Offers SCRAM-SHA-256-PLUS first, which we pass over.
    log_in(&mut rustls::Stream::new(&mut tls, &mut stream), "secure", "right", &cache).unwrap();
}

/// A server for one login.
fn serve(
    listener: TcpListener,
    method: AuthMethod,
    stored: ClientPassword,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut body = receive_body(&mut socket);
        let mut connection;
        let mut encrypted;
        let mut stream: &mut dyn Socket = &mut socket;
        if body == [4, 210, 22, 47] {
            let Some(config) = tls else {
                stream.write_all(b"N").unwrap();
                return talk(stream, method, &stored, None);
            };
            stream.write_all(b"S").unwrap();
            connection = rustls::ServerConnection::new(config).unwrap();
            encrypted = rustls::Stream::new(&mut connection, &mut socket);
            stream = &mut encrypted;
            body = receive_body(stream);
        }
        talk(stream, method, &stored, Some(body));
    })
}

fn talk(stream: &mut dyn Socket, method: AuthMethod, stored: &ClientPassword, startup: Option<Vec<u8>>) {
    let startup = startup.unwrap_or_else(|| receive_body(stream));
    assert_eq!(startup[..4], [0, 3, 0, 0]);
    let authenticator = ClientAuthenticator::new(&SystemRandom, Arc::new(ScramCache::new())).unwrap();
    let (mut exchange, mut step) =
        ClientExchange::start(&authenticator, method, "alice", Some(stored), &SystemRandom);
    let (code, message) = loop {
        step = match step {
            Step::Send(body) => {
                send(stream, b'R', &body);
                let (tag, body) = receive(stream);
                assert_eq!(tag, b'p');
                exchange.on_message(&body)
            }
            Step::Derive(work) => {
                work.run();
                exchange.on_derived()
            }
            Step::Accept(accepted) => {
                if let Some(body) = accepted.final_message {
                    send(stream, b'R', &body);
                }
                send(stream, b'R', &AUTHENTICATION_OK);
                break ("57P03", "let in by the test".to_owned());
            }
            Step::Reject(error) => break (error.sqlstate(), error.message().to_owned()),
        };
    };
    send(stream, b'E', format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0").as_bytes());
}

/// Lets psql log in to us and returns what it says.
fn psql(
    method: AuthMethod,
    stored: ClientPassword,
    password: &str,
    tls: Option<Arc<rustls::ServerConfig>>,
    options: &str,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = serve(listener, method, stored, tls);
    let output = Command::new(cluster().access().programs.join("psql"))
        .arg(format!("host=127.0.0.1 port={port} user=alice dbname=x gssencmode=disable {options}"))
        .args(["-X", "-w", "-c", "SELECT 1"])
        .env("PGPASSWORD", password)
        .output()
        .unwrap();
    server.join().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn libpq_logs_in_to_us() {
    let folder = tempfile::tempdir().unwrap();
    write_certificates(folder.path());
    let settings = ClientTls {
        mode: ClientTlsMode::Prefer,
        certificate: Some(folder.path().join("cert.pem")),
        key: Some(folder.path().join("key.pem")),
    };
    let tls = ClientTlsAcceptor::load(&settings).unwrap().unwrap().current();
    let verify = format!("sslmode=verify-full sslrootcert={}", folder.path().join("ca.pem").display());
    for method in [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
        for (tls, options) in
            [(None, "sslmode=disable"), (None, "sslmode=prefer"), (Some(&tls), verify.as_str())]
        {
            for (password, expected) in [
                ("right", "FATAL:  let in by the test"),
                ("wrong", "FATAL:  password authentication failed for user \"alice\""),
            ] {
                let stored = ClientPassword::Plain(Secret::new("right"));
                let said = psql(method, stored, password, tls.map(Arc::clone), options);
                assert!(said.contains(expected), "{method:?} {options} {password}: {said}");
            }
        }
    }
}
