//! A configuration without a file: `--primary postgres://app:pw@db:5432/shop --replica …`.
//!
//! The URLs become the same tree a file becomes, so defaults, checks and `PGWEIR__` variables are
//! the same.

use super::address::parse_node;
use super::errors::{Complaint, ConfigErrors, Origin, Place, Problems};
use super::file;
use super::node::Node;
use super::resolve::{Outside, resolve};
use super::{AuthMethod, Config, Environment};

impl Config {
    /// One user and one database (and `"*"`, any other on the same servers) from the URL of the
    /// primary and those of replicas, which may be `host:port` as well.
    ///
    /// Without a password in the URL clients are trusted; that is allowed only where nobody but
    /// this machine can connect.
    pub fn from_urls(
        primary: &str,
        replicas: &[String],
        listen: Option<&str>,
        environment: &Environment,
    ) -> Result<Self, ConfigErrors> {
        let mut problems = Problems::default();
        let place = |name: &str| Place { origin: Origin::Argument(name.to_owned()), path: String::new() };
        let at_primary = place("--primary");
        let url = problems.keep(&at_primary, parse(primary));
        let mut addresses = Vec::new();
        for text in replicas {
            let at = place("--replica");
            let Some(address) = problems.keep(&at, replica(text, url.as_ref())) else { continue };
            addresses.push(Node::text(address, &at.origin));
        }
        let Some(url) = url.filter(|_| problems.is_empty()) else { return Err(problems.into_errors(None)) };

        let trusted = url.password.is_none() && !environment.has_password_of(&url.user);
        let root = tree(&url, addresses, listen, trusted, &at_primary.origin);
        let config = resolve(root, &Outside { environment, read: &file::read, file: None })?;
        let open = config.listen.iter().find(|l| !l.is_local());
        if let (true, AuthMethod::Trust, Some(open)) = (trusted, config.auth.method, open) {
            let complaint = Complaint::new(format!("has no password, and {open} is open to other machines"))
                .hint("add the password to the URL, or listen on 127.0.0.1 or a unix socket only");
            problems.push(&at_primary, complaint);
            return Err(problems.into_errors(None));
        }
        Ok(config)
    }
}

/// The tree a file would have been read into.
fn tree(url: &Url, replicas: Vec<Node>, listen: Option<&str>, trusted: bool, at: &Origin) -> Node {
    let text = |text: &str| Node::text(text, at);
    let node = Node::map([("primary", text(&url.address)), ("replicas", Node::list(replicas, at))], at);
    let databases = Node::map([(url.database.as_str(), node.clone()), ("*", node)], at);
    let password = url.password.as_deref().map(|password| ("password", text(password)));
    let users = Node::map([(url.user.as_str(), Node::map(password, at))], at);
    let tls = [("mode", url.sslmode.as_deref()), ("ca", url.sslrootcert.as_deref())];
    let tls = tls.into_iter().filter_map(|(key, value)| Some((key, text(value?))));
    let mut root = vec![
        ("databases", databases),
        ("users", users),
        ("tls", Node::map([("server", Node::map(tls, at))], at)),
    ];
    if trusted {
        root.push(("auth", Node::map([("method", text("trust"))], at)));
    }
    if let Some(listen) = listen {
        let at = Origin::Argument("--listen".to_owned());
        let parts = listen.split(',').map(|part| Node::text(part.trim(), &at)).collect();
        root.push(("listen", Node::list(parts, &at)));
    }
    Node::map(root, at)
}

/// What a connection URL says.
struct Url {
    user: String,
    password: Option<String>,
    /// `host:port` as the file has it.
    address: String,
    database: String,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
}

/// Reads `postgres://user:password@host:port/database?sslmode=…`. Nothing of it is quoted in errors.
fn parse(text: &str) -> Result<Url, Complaint> {
    let shape = || {
        Complaint::new("is not a connection URL").hint("write postgres://user:password@host:5432/database")
    };
    let rest =
        text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")).ok_or_else(shape)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(decode(password)?)),
        None => (login, None),
    };
    let user = decode(user)?;
    if user.is_empty() {
        return Err(Complaint::new("has no user").hint("write postgres://user:password@host:5432/database"));
    }
    if host.contains(',') {
        return Err(Complaint::new("has several hosts")
            .hint("give the server that takes writes as --primary and each of the others as --replica"));
    }
    let address = if host.is_empty() { "localhost".to_owned() } else { decode(host)? };
    parse_node(&address)?;
    let database = decode(database)?;
    let mut url = Url {
        database: if database.is_empty() { user.clone() } else { database },
        user,
        password: password.filter(|p| !p.is_empty()),
        address,
        sslmode: None,
        sslrootcert: None,
    };
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = decode(value)?;
        match key {
            // libpq's `allow` starts without TLS; `prefer` connects wherever it does.
            "sslmode" if value == "allow" => url.sslmode = Some("prefer".to_owned()),
            "sslmode" => url.sslmode = Some(value),
            "sslrootcert" => url.sslrootcert = Some(value),
            // What clients say about themselves is theirs to say.
            "application_name" | "connect_timeout" | "target_session_attrs" => {}
            _ => {
                return Err(Complaint::new(format!(
                    "has a parameter that is not supported: {}",
                    super::errors::shown(key)
                ))
                .hint("sslmode and sslrootcert are known here; use pooler.yaml for the rest"));
            }
        }
    }
    Ok(url)
}

/// The address of a replica; it must not contradict what the primary's URL says.
fn replica(text: &str, primary: Option<&Url>) -> Result<String, Complaint> {
    if !text.contains("://") {
        return parse_node(text).map(|_| text.to_owned());
    }
    let url = parse(text)?;
    if let Some(primary) = primary {
        let same = url.user == primary.user
            && url.database == primary.database
            && (url.password.is_none() || url.password == primary.password);
        if !same {
            return Err(Complaint::new("has another user, password or database than --primary")
                .hint("a replica is a copy of the primary: give only its host:port, or use pooler.yaml"));
        }
    }
    Ok(url.address)
}

/// Replaces `%40` and the like.
fn decode(text: &str) -> Result<String, Complaint> {
    let wrong =
        || Complaint::new("has a % that is not followed by two hexadecimal digits").hint("write %25 for %");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(wrong);
        let (high, low) = (digit()?, digit()?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| Complaint::new("is not UTF-8 after replacing its %"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClientPassword, ServerTlsMode};

    fn from(primary: &str, replicas: &[&str], listen: Option<&str>) -> Result<Config, String> {
        let replicas: Vec<String> = replicas.iter().map(|r| (*r).to_owned()).collect();
        Config::from_urls(primary, &replicas, listen, &Environment::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn one_user_and_two_ways_to_its_database() {
        let config = from(
            "postgres://app:p%40ss%3A${x}@db-0:5433/shop?sslmode=require",
            &["postgres://app@db-1/shop", "db-2:5434", "[::1]:5435"],
            Some("0.0.0.0:6432"),
        )
        .unwrap();
        let shop = config.database("shop").unwrap();
        let nodes: Vec<String> =
            std::iter::once(&shop.primary).chain(&shop.replicas).map(ToString::to_string).collect();
        assert_eq!(nodes, ["db-0:5433", "db-1:5432", "db-2:5434", "[::1]:5435"]);
        assert_eq!(config.database("other").unwrap().primary, shop.primary);
        assert_eq!(config.tls.server.mode, ServerTlsMode::Require);
        assert_eq!(config.auth.method, AuthMethod::ScramSha256);
        let Some(ClientPassword::Plain(password)) = &config.users["app"].password else {
            panic!("no password")
        };
        assert_eq!(password.expose(), "p@ss:${x}");
    }

    #[test]
    fn a_password_of_an_unlucky_form_stays_plain() {
        for password in ["md50123456789abcdef0123456789abcdef", "SCRAM-SHA-256$x", "file:x"] {
            let config = from(&format!("postgres://app:{password}@db/shop"), &[], None).unwrap();
            let Some(ClientPassword::Plain(plain)) = &config.users["app"].password else {
                panic!("{password}")
            };
            assert_eq!(plain.expose(), password);
        }
    }

    #[test]
    fn without_a_password_only_this_machine_may_connect() {
        let config = from("postgres://app@db/shop", &[], None).unwrap();
        assert_eq!(config.auth.method, AuthMethod::Trust);
        assert!(config.listen.iter().all(crate::config::ListenAddress::is_local));
        let text = from("postgres://app@db/shop", &[], Some("unix:/run,0.0.0.0:6432")).unwrap_err();
        assert!(text.starts_with("--primary: error: has no password, and 0.0.0.0:6432 is open"), "{text}");
    }

    #[test]
    fn a_password_may_come_from_a_variable() {
        let environment: Environment =
            [("PGWEIR__USERS__APP__PASSWORD".to_owned(), "x".to_owned())].into_iter().collect();
        let config = Config::from_urls("postgres://app@db/shop", &[], Some("*:6432"), &environment).unwrap();
        assert_eq!(config.auth.method, AuthMethod::ScramSha256);
        assert!(config.users["app"].password.is_some());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (primary, replicas, listen, message) in [
            ("db:5432", &[][..], None, "--primary: error: is not a connection URL"),
            ("postgres://:hunter2@db/shop", &[], None, "--primary: error: has no user"),
            ("postgres://app:hunter2@db,db2/shop", &[], None, "--primary: error: has several hosts"),
            ("postgres://app:hunter2@db:x/shop", &[], None, "--primary: error: \"db:x\" has no valid port"),
            ("postgres://app:hunter2%4@db/shop", &[], None, "--primary: error: has a % that"),
            ("postgres://app:hunter2@db/shop?options=-c", &[], None, "--primary: error: has a parameter"),
            (
                "postgres://app:hunter2@db/shop",
                &["postgres://bob@r/shop"],
                None,
                "--replica: error: has another user",
            ),
            (
                "postgres://app:hunter2@db/shop",
                &["db:5432"],
                None,
                "--replica: error: databases.shop.replicas: db:5432 is the primary",
            ),
            (
                "postgres://app:hunter2@db/shop",
                &[],
                Some("6432"),
                "--listen: error: listen: \"6432\" has no host",
            ),
        ] {
            let text = from(primary, replicas, listen).unwrap_err();
            assert!(text.contains(message), "{text}\nlacks\n{message}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_url_panics(text in "(postgres://)?[a-z%:@/?=&\\[\\]0-9,é]*") {
            let _ = from(&text, &[&text], Some(&text));
        }
    }
}
