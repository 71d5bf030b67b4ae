//! TLS in memory: every mode towards servers, what clients get, reloads, and what is wrong with files.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests too

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pgweir::config::{ClientTls, ClientTlsMode, ServerTls, ServerTlsMode};
use pgweir::net::tls::{ALPN, ClientTlsAcceptor, ServerTlsConnector, TlsError, is_postgres};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tempfile::TempDir;

const HOST: &str = "db.example.com";

/// An authority and a certificate of it, in files.
struct Pki {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let pki = Self { folder, issuer: Issuer::new(params, key) };
        pki.issue(HOST, 4000);
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `cert.pem` and `key.pem`.
    fn issue(&self, host: &str, until_year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path("cert.pem"), certificate.pem()).unwrap();
        fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        certificate.der().to_vec()
    }

    fn client_tls(&self) -> ClientTls {
        ClientTls {
            mode: ClientTlsMode::Prefer,
            certificate: Some(self.path("cert.pem")),
            key: Some(self.path("key.pem")),
        }
    }

    fn server_tls(&self, mode: ServerTlsMode) -> ServerTls {
        ServerTls { mode, ca: Some(self.path("ca.pem")) }
    }

    fn acceptor(&self) -> ClientTlsAcceptor {
        ClientTlsAcceptor::load(&self.client_tls()).unwrap().unwrap()
    }

    fn connector(&self, mode: ServerTlsMode) -> ServerTlsConnector {
        ServerTlsConnector::load(&self.server_tls(mode)).unwrap().unwrap()
    }
}

type Pair = (ClientConnection, ServerConnection);

/// Carries bytes between both ends until nobody has anything to say.
fn handshake(
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> Result<Pair, rustls::Error> {
    let mut client = ClientConnection::new(client, name)?;
    let mut server = ServerConnection::new(server)?;
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn connect(
    connector: &ServerTlsConnector,
    host: &str,
    acceptor: &ClientTlsAcceptor,
) -> Result<Pair, rustls::Error> {
    handshake(connector.current(), connector.server_name(host).unwrap(), acceptor.current())
}

/// A client of another make, which trusts the authority and offers these ALPN names.
fn other_client(
    pki: &Pki,
    alpn: &[&[u8]],
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    use rustls_pki_types::pem::PemObject as _;
    let mut roots = RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(pki.path("ca.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn name() -> ServerName<'static> {
    ServerName::try_from(HOST).unwrap()
}

#[test]
fn each_mode_checks_what_it_says() {
    use ServerTlsMode::{Prefer, Require, VerifyCa, VerifyFull};
    let (ours, foreign) = (Pki::new(), Pki::new());
    let good = ours.acceptor();
    let expired = {
        ours.issue(HOST, 2001);
        ours.acceptor()
    };
    // mode, and whether it takes: all right | another name | another authority | expired
    let table = [
        (Prefer, [true, true, true, true]),
        (Require, [true, true, true, true]),
        (VerifyCa, [true, true, false, false]),
        (VerifyFull, [true, false, false, false]),
    ];
    for (mode, expected) in table {
        let connector = ours.connector(mode);
        let taken = [
            connect(&connector, HOST, &good),
            connect(&connector, "other.example.com", &good),
            connect(&connector, HOST, &foreign.acceptor()),
            connect(&connector, HOST, &expired),
        ];
        assert_eq!(taken.map(|result| result.is_ok()), expected, "{mode:?}");
    }
}

#[test]
fn verify_full_checks_addresses_too() {
    let pki = Pki::new();
    pki.issue("10.1.2.3", 4000);
    let connector = pki.connector(ServerTlsMode::VerifyFull);
    connect(&connector, "10.1.2.3", &pki.acceptor()).unwrap();
    connect(&connector, "10.1.2.4", &pki.acceptor()).unwrap_err();
}

#[test]
fn hosts_that_are_no_names() {
    let pki = Pki::new();
    let full = pki.connector(ServerTlsMode::VerifyFull);
    let error = full.server_name("no name").unwrap_err();
    assert!(error.to_string().contains("\"no name\""), "{error}");
    let require = pki.connector(ServerTlsMode::Require);
    connect(&require, "no name", &pki.acceptor()).unwrap();
}

/// What `openssl req -new -x509` makes: its own authority, and the file of authorities is the certificate itself.
#[test]
fn a_self_signed_certificate_can_be_its_own_authority() {
    let pki = Pki::new();
    let trusted = |until_year: i32| {
        let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        fs::write(pki.path("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(pki.path("key.pem"), key.serialize_pem()).unwrap();
        fs::copy(pki.path("cert.pem"), pki.path("ca.pem")).unwrap();
        pki.acceptor()
    };
    let expired = trusted(2001);
    for mode in [ServerTlsMode::VerifyCa, ServerTlsMode::VerifyFull] {
        connect(&pki.connector(mode), HOST, &expired).unwrap_err();
    }
    let other = trusted(4000);
    let good = trusted(4000);
    for mode in [ServerTlsMode::VerifyCa, ServerTlsMode::VerifyFull] {
        let connector = pki.connector(mode);
        connect(&connector, HOST, &good).unwrap();
        connect(&connector, HOST, &other).unwrap_err();
        let another_name = connect(&connector, "other.example.com", &good);
        assert_eq!(another_name.is_ok(), mode == ServerTlsMode::VerifyCa);
    }
}

#[test]
fn a_server_without_the_key_of_its_certificate_fails_verification() {
    use rustls_pki_types::pem::PemObject as _;
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    // The certificate of the authority in the hands of somebody else: known to the verifier, signed with
    // another key. `rustls` itself refuses such a pair, so it is forced on it.
    let provider = aws_lc_rs::default_provider();
    let certificate = rustls_pki_types::CertificateDer::from_pem_file(pki.path("cert.pem")).unwrap();
    let stolen = PrivateKeyDer::try_from(KeyPair::generate().unwrap().serialize_der()).unwrap();
    let key = provider.key_provider.load_private_key(stolen).unwrap();
    let mut thief = ServerConfig::clone(&acceptor.current());
    let pair = rustls::sign::CertifiedKey::new(vec![certificate], key);
    thief.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(pair));
    let thief = Arc::new(thief);
    for mode in [ServerTlsMode::VerifyCa, ServerTlsMode::VerifyFull] {
        let config = pki.connector(mode).current();
        assert!(handshake(config, name(), Arc::clone(&thief)).is_err(), "{mode:?}");
    }
}

#[test]
fn both_versions_and_resumption() {
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = other_client(&pki, &[], version);
        let (first, server) = handshake(Arc::clone(&config), name(), acceptor.current()).unwrap();
        assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.protocol_version(), Some(version.version));
        // Also over a reload.
        acceptor.reload(&pki.client_tls()).unwrap();
        let (again, _) = handshake(config, name(), acceptor.current()).unwrap();
        assert_eq!(again.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
    }
}

#[test]
fn alpn_is_ours_or_absent() {
    let pki = Pki::new();
    let server = pki.acceptor().current();
    let negotiated = |alpn: &[&[u8]]| {
        handshake(other_client(&pki, alpn, &rustls::version::TLS13), name(), Arc::clone(&server))
            .map(|(_, server)| is_postgres(server.alpn_protocol()))
    };
    assert_eq!(negotiated(&[ALPN]), Ok(true));
    assert_eq!(negotiated(&[b"http/1.1", ALPN]), Ok(true));
    assert_eq!(negotiated(&[]), Ok(false), "fine after SSLRequest, not for direct TLS");
    assert_eq!(negotiated(&[b"http/1.1"]), Err(rustls::Error::NoApplicationProtocol));
}

#[test]
fn reload_takes_the_new_certificate_and_keeps_the_old_on_error() {
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    let connector = pki.connector(ServerTlsMode::VerifyFull);
    let served = || connect(&connector, HOST, &acceptor).unwrap().0.peer_certificates().unwrap()[0].to_vec();
    let old = served();
    let new = pki.issue(HOST, 4000);
    assert_eq!(served(), old, "not before the reload");
    acceptor.reload(&pki.client_tls()).unwrap();
    assert_eq!(served(), new);
    fs::write(pki.path("cert.pem"), "").unwrap();
    acceptor.reload(&pki.client_tls()).unwrap_err();
    assert_eq!(served(), new, "kept");
}

#[test]
fn authorities_reload() {
    let (old, new) = (Pki::new(), Pki::new());
    let connector = old.connector(ServerTlsMode::VerifyCa);
    connect(&connector, HOST, &new.acceptor()).unwrap_err();
    connector.reload(&ServerTls { mode: ServerTlsMode::VerifyCa, ca: None }).unwrap_err();
    connect(&connector, HOST, &old.acceptor()).unwrap();
    connector.reload(&new.server_tls(ServerTlsMode::VerifyCa)).unwrap();
    connect(&connector, HOST, &new.acceptor()).unwrap();
    connect(&connector, HOST, &old.acceptor()).unwrap_err();
}

#[test]
fn disabled_needs_no_files() {
    let none = ClientTls { mode: ClientTlsMode::Disable, certificate: None, key: None };
    assert!(ClientTlsAcceptor::load(&none).unwrap().is_none());
    let none = ServerTls { mode: ServerTlsMode::Disable, ca: None };
    assert!(ServerTlsConnector::load(&none).unwrap().is_none());
    let unverified = ServerTls { mode: ServerTlsMode::Prefer, ca: None };
    assert!(ServerTlsConnector::load(&unverified).unwrap().is_some());
}

#[test]
fn errors_name_the_file_and_the_fault() {
    let pki = Pki::new();
    fs::write(pki.path("empty.pem"), "no PEM here\n").unwrap();
    fs::write(pki.path("torn.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    fs::write(pki.path("junk.pem"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        .unwrap();
    fs::write(pki.path("other.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(pki.path("junk-cert.pem"), junk).unwrap();
    let client = |certificate: Option<&str>, key: Option<&str>| {
        let [certificate, key] = [certificate, key].map(|name| name.map(|name| pki.path(name)));
        let settings = ClientTls { mode: ClientTlsMode::Require, certificate, key };
        ClientTlsAcceptor::load(&settings).unwrap_err()
    };
    let (cert, key) = (Some("cert.pem"), Some("key.pem"));
    let says = |error: TlsError, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text:?} lacks one of {words:?}");
    };
    says(client(None, key), &["tls.client.certificate is not set"]);
    says(client(cert, None), &["tls.client.key is not set"]);
    says(client(Some("gone.pem"), key), &["cannot read certificate file", "gone.pem", "No such file"]);
    says(client(Some("empty.pem"), key), &["certificate file", "empty.pem", "holds no certificate"]);
    says(client(Some("key.pem"), key), &["certificate file", "key.pem", "holds no certificate"]);
    says(client(Some("torn.pem"), key), &["certificate file", "torn.pem", "not valid PEM"]);
    says(client(Some("junk-cert.pem"), key), &["certificate file", "junk-cert.pem", "cannot be used"]);
    says(client(cert, Some("gone.pem")), &["cannot read private key file", "gone.pem"]);
    says(client(cert, Some("cert.pem")), &["private key file", "cert.pem", "holds no private key"]);
    says(client(cert, Some("junk.pem")), &["private key file", "junk.pem", "cannot be used"]);
    says(client(cert, Some("other.pem")), &["other.pem does not match the certificate", "cert.pem"]);
    let server = |ca: Option<&str>| {
        let settings = ServerTls { mode: ServerTlsMode::VerifyFull, ca: ca.map(|name| pki.path(name)) };
        ServerTlsConnector::load(&settings).unwrap_err()
    };
    says(server(None), &["tls.server.ca is not set"]);
    says(server(Some("gone.pem")), &["cannot read CA file", "gone.pem"]);
    says(server(Some("empty.pem")), &["CA file", "empty.pem", "holds no certificate"]);
    says(server(Some("junk-cert.pem")), &["CA file", "junk-cert.pem", "cannot be used"]);
}
