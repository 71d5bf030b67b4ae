//! TLS settings made ready: certificates read, checked and wrapped for `rustls`, for both sides.
//!
//! Files are read on load and reload only; a reload that fails changes nothing. Connections under way keep
//! what they began with. Handshakes themselves are the caller's (`tokio-rustls` takes what `current` gives).
//!
//! Not here: client certificates, channel binding, revocation lists. As with all of `rustls`, a server's name is
//! looked for among the subject alternative names only, never in the common name.

mod verify;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ProducesTickets;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::config::{ClientTls, ClientTlsMode, ServerTls, ServerTlsMode};
use verify::{Unverified, Verified};

/// The ALPN name of PostgreSQL's protocol.
pub const ALPN: &[u8] = b"postgresql";

/// Tickets sent in one TLS 1.3 handshake. Clients that resume at all use the last one.
const TICKETS: usize = 1;

/// Why TLS cannot be offered or used. All are for the operator; a retry helps once the file is mended.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A mode needs a file that is not configured.
    #[error("{setting} is not set, and this TLS mode needs it")]
    NotSet {
        /// The key in the configuration.
        setting: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("{what} {} is not valid PEM: {source}", path.display())]
    NotPem {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// The file is PEM, and what is wanted is not in it.
    #[error("{what} {} holds no {missing}", path.display())]
    Empty {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing: a certificate, a private key.
        missing: &'static str,
    },
    /// The file holds something that cannot be used.
    #[error("{what} {} cannot be used: {source}", path.display())]
    Unusable {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// Certificate and key are of different pairs.
    #[error("private key {} does not match the certificate {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// A server's host cannot be the name in a certificate.
    #[error("\"{host}\" is neither a host name nor an address, so no certificate can be valid for it")]
    BadServerName {
        /// The host as configured.
        host: String,
    },
    /// `rustls` refuses for another reason.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

const CERTIFICATE: &str = "certificate file";
const KEY: &str = "private key file";
const CA: &str = "CA file";

/// TLS towards clients.
#[derive(Debug)]
pub struct ClientTlsAcceptor {
    current: ArcSwap<ServerConfig>,
    /// Kept over reloads, so that clients can resume sessions from before.
    ticketer: Arc<dyn ProducesTickets>,
}

impl ClientTlsAcceptor {
    /// Reads certificate and key; `None` if TLS is disabled.
    pub fn load(settings: &ClientTls) -> Result<Option<Self>, TlsError> {
        if settings.mode == ClientTlsMode::Disable {
            return Ok(None);
        }
        let ticketer = aws_lc_rs::Ticketer::new()?;
        let config = server_config(settings, &ticketer)?;
        Ok(Some(Self { current: ArcSwap::from_pointee(config), ticketer }))
    }

    /// Reads certificate and key again, from where `settings` says now. On an error the old ones stay.
    pub fn reload(&self, settings: &ClientTls) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(settings, &self.ticketer)?));
        Ok(())
    }

    /// What the next handshake uses. A client that offers ALPN names without [`ALPN`] fails in it; one that
    /// offers none gets through, which a direct TLS connection must not: see [`is_postgres`].
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

/// Whether the negotiated ALPN name allows PostgreSQL's protocol right after a direct TLS handshake. After an
/// `SSLRequest` nothing needs to have been negotiated.
pub fn is_postgres(negotiated: Option<&[u8]>) -> bool {
    negotiated == Some(ALPN)
}

fn server_config(
    settings: &ClientTls,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let identity = identity(settings, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = Arc::clone(ticketer);
    config.send_tls13_tickets = TICKETS;
    Ok(config)
}

fn identity(settings: &ClientTls, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let certificate =
        settings.certificate.as_deref().ok_or(TlsError::NotSet { setting: "tls.client.certificate" })?;
    let key = settings.key.as_deref().ok_or(TlsError::NotSet { setting: "tls.client.key" })?;
    let chain = certificates(CERTIFICATE, certificate)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(KEY, key)?).map_err(|source| match source {
        pem::Error::NoItemsFound => {
            TlsError::Empty { what: KEY, path: key.to_owned(), missing: "private key" }
        }
        source => TlsError::NotPem { what: KEY, path: key.to_owned(), source },
    })?;
    let secret = provider.key_provider.load_private_key(secret).map_err(|source| TlsError::Unusable {
        what: KEY,
        path: key.to_owned(),
        source,
    })?;
    let identity = CertifiedKey::new(chain, secret);
    match identity.keys_match() {
        // `Unknown` is said of keys that cannot tell their public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(identity),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsError::KeyMismatch { certificate: certificate.to_owned(), key: key.to_owned() })
        }
        Err(source) => Err(TlsError::Unusable { what: CERTIFICATE, path: certificate.to_owned(), source }),
    }
}

/// TLS towards servers.
#[derive(Debug)]
pub struct ServerTlsConnector {
    current: ArcSwap<Current>,
}

#[derive(Debug)]
struct Current {
    mode: ServerTlsMode,
    config: Arc<ClientConfig>,
}

impl ServerTlsConnector {
    /// Reads the authorities if the mode verifies; `None` if TLS is disabled.
    pub fn load(settings: &ServerTls) -> Result<Option<Self>, TlsError> {
        if settings.mode == ServerTlsMode::Disable {
            return Ok(None);
        }
        Ok(Some(Self { current: ArcSwap::from_pointee(Current::load(settings)?) }))
    }

    /// Reads the authorities again, from where `settings` says now. On an error the old ones stay.
    pub fn reload(&self, settings: &ServerTls) -> Result<(), TlsError> {
        self.current.store(Arc::new(Current::load(settings)?));
        Ok(())
    }

    /// What the next handshake uses.
    pub fn current(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// The name the certificate of `host` must have. Where no mode looks at it, any host will do.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        match ServerName::try_from(host) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) if self.current.load().mode == ServerTlsMode::VerifyFull => {
                Err(TlsError::BadServerName { host: host.to_owned() })
            }
            // An address is never sent to the server as its name.
            Err(_) => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()),
        }
    }
}

impl Current {
    fn load(settings: &ServerTls) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match settings.mode {
            ServerTlsMode::Disable | ServerTlsMode::Prefer | ServerTlsMode::Require => Arc::new(Unverified {
                schemes: provider.signature_verification_algorithms.supported_schemes(),
            }),
            ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull => {
                let (authorities, roots) = authorities(settings)?;
                let check_name = settings.mode == ServerTlsMode::VerifyFull;
                Arc::new(Verified { authorities, roots, check_name, provider: Arc::clone(&provider) })
            }
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        // PostgreSQL gives no tickets, and a resumed session would not look at the certificate again.
        config.resumption = Resumption::disabled();
        Ok(Self { mode: settings.mode, config: Arc::new(config) })
    }
}

fn authorities(settings: &ServerTls) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), TlsError> {
    let path = settings.ca.as_deref().ok_or(TlsError::NotSet { setting: "tls.server.ca" })?;
    let authorities = certificates(CA, path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &authorities {
        roots.add(certificate.clone()).map_err(|source| TlsError::Unusable {
            what: CA,
            path: path.to_owned(),
            source,
        })?;
    }
    Ok((authorities, roots))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(what, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::NotPem { what, path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned(), missing: "certificate" });
    }
    Ok(chain)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { what, path: path.to_owned(), source })
}
