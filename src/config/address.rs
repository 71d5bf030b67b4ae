//! Addresses as people write them: of servers, and of places to listen.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::errors::{Complaint, shown};
use super::{ListenAddress, NodeSettings, defaults};

/// A place to listen, before the ports of unix sockets are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListenText {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Reads `host:port`, `host`, `[::1]:5432`, `/directory:port`, `/directory`.
pub(super) fn parse_node(text: &str) -> Result<(String, u16), Complaint> {
    if text.contains("://") {
        return Err(Complaint::new("a URL is not an address").hint(
            "write host:port here; user and password belong under users:, the database's name under database:",
        ));
    }
    if text.starts_with('/') {
        let (directory, port) = match text.rsplit_once(':') {
            Some((directory, port)) => (directory, parse_port(port, text)?),
            None => (text, defaults::SERVER_PORT),
        };
        return Ok((directory.to_owned(), port));
    }
    let (host, port) = split_host_port(text)?;
    let port = port.map_or(Ok(defaults::SERVER_PORT), |p| parse_port(p, text))?;
    if port == 0 {
        return Err(Complaint::new(format!("{} has port 0", shown(text))));
    }
    check_host(host, text)?;
    Ok((host.to_owned(), port))
}

/// Reads `host:port`, `*:port`, `[::]:port`, `unix:/directory`.
pub(super) fn parse_listen(text: &str) -> Result<ListenText, Complaint> {
    if let Some(directory) = text.strip_prefix("unix:") {
        if !directory.starts_with('/') {
            return Err(Complaint::new(format!("{} needs an absolute directory", shown(text)))
                .hint("write unix:/run/pgweir; the socket in it is called .s.PGSQL.<port>"));
        }
        return Ok(ListenText::Unix(PathBuf::from(directory)));
    }
    if text.starts_with('/') {
        return Err(Complaint::new(format!("{} is not an address", shown(text)))
            .hint(format!("for a unix socket write \"unix:{text}\"")));
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Complaint::new(format!("{} has no host", shown(text)))
            .hint(format!("write \"127.0.0.1:{text}\" for this machine only, \"0.0.0.0:{text}\" for all")));
    }
    let (host, port) = split_host_port(text)?;
    let port = port.map_or(Ok(defaults::LISTEN_PORT), |p| parse_port(p, text))?;
    if host != "*" {
        check_host(host, text)?;
    }
    Ok(ListenText::Tcp { host: host.to_owned(), port })
}

/// Reads `127.0.0.1:9432`, `*:9432`, `localhost:9432`: addresses that need no name service.
pub(super) fn parse_socket_address(text: &str) -> Result<SocketAddr, Complaint> {
    let wrong = || {
        Complaint::new(format!("{} is not an address and a port", shown(text)))
            .hint("write \"127.0.0.1:9432\" for this machine only, \"0.0.0.0:9432\" for all")
    };
    let rewritten = match text.rsplit_once(':') {
        Some(("*", port)) => format!("0.0.0.0:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    };
    rewritten.parse().map_err(|_| wrong())
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => f.write_str(&with_port(host, *port)),
            Self::Unix { directory, .. } => write!(f, "unix:{}", directory.display()),
        }
    }
}

impl fmt::Display for NodeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_port(&self.host, self.port))
    }
}

/// `host:port`, with brackets around IPv6 addresses.
fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('/') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn split_host_port(text: &str) -> Result<(&str, Option<&str>), Complaint> {
    if let Some(inside) = text.strip_prefix('[') {
        let Some((host, rest)) = inside.split_once(']') else {
            return Err(Complaint::new(format!("{} has no closing bracket", shown(text))));
        };
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(Complaint::new(format!("{} has something after the bracket", shown(text)))),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, port)) if port.contains(':') => {
            Err(Complaint::new(format!("{} has more than one colon", shown(text)))
                .hint("write IPv6 addresses in brackets: \"[::1]:5432\""))
        }
        Some((host, port)) => Ok((host, Some(port))),
    }
}

fn parse_port(port: &str, text: &str) -> Result<u16, Complaint> {
    port.parse().map_err(|_| {
        Complaint::new(format!("{} has no valid port", shown(text)))
            .hint("a port is a number from 1 to 65535")
    })
}

fn check_host(host: &str, text: &str) -> Result<(), Complaint> {
    // 253 is the longest name DNS can hold.
    let fits = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'));
    if fits { Ok(()) } else { Err(Complaint::new(format!("{} has no valid host name", shown(text)))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes() {
        for (text, host, port) in [
            ("db:5433", "db", 5433),
            ("db", "db", 5432),
            ("[::1]:5433", "::1", 5433),
            ("[fe80::1%eth0]", "fe80::1%eth0", 5432),
            ("/run/postgresql", "/run/postgresql", 5432),
            ("/run/postgresql:5433", "/run/postgresql", 5433),
        ] {
            assert_eq!(parse_node(text).unwrap(), (host.to_owned(), port), "{text}");
        }
        for text in
            ["", ":5432", "db:", "db:x", "db:0", "db:65536", "::1", "[::1", "[::1]5432", "a b:5432", "a@b"]
        {
            assert!(parse_node(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_in_the_wrong_place_is_not_quoted() {
        let complaint = parse_node("postgres://app:hunter2@db/shop").unwrap_err();
        assert!(!format!("{complaint:?}").contains("hunter2"));
    }

    #[test]
    fn listeners() {
        assert_eq!(parse_listen("*:1").unwrap(), ListenText::Tcp { host: "*".into(), port: 1 });
        assert_eq!(parse_listen("[::]:0").unwrap(), ListenText::Tcp { host: "::".into(), port: 0 });
        assert_eq!(parse_listen("unix:/run").unwrap(), ListenText::Unix("/run".into()));
        for text in ["", "6432", "/run", "unix:run", "unix:", ":6432", "0.0.0.0:x"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]:/*a-z0-9é.]*") {
            let _ = parse_node(&text);
            let _ = parse_listen(&text);
            let _ = parse_socket_address(&text);
        }
    }
}
