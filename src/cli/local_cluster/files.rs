//! What is written into data directories: `postgresql.conf`, `pg_hba.conf`, and copies of
//! whole directories.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use super::binaries::RunAs;

/// Speed over safety: this cluster lives for minutes and may lose everything in a crash of the
/// machine. The rest makes the nodes able to do what the tests ask of them.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "32MB"),
    ("wal_level", "logical"),
    ("wal_keep_size", "512MB"),
    ("max_wal_senders", "10"),
    ("max_connections", "200"),
    ("max_prepared_transactions", "20"),
    ("wal_receiver_status_interval", "1"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("logging_collector", "off"),
    ("log_min_messages", "warning"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
    ("password_encryption", "scram-sha-256"),
];

/// The text appended to the `postgresql.conf` made by initdb; a later line wins over an earlier
/// one, so `extra` wins over everything.
pub(super) fn configuration(port: u16, sockets: &Path, extra: &[(String, String)]) -> String {
    let mut text = String::from("\n# Written by pgweir.\n");
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key} = '{}'", value.replace('\'', "''"));
    };
    for (key, value) in SETTINGS {
        line(key, value);
    }
    line("port", &port.to_string());
    line("unix_socket_directories", &sockets.display().to_string());
    for (key, value) in extra {
        line(key, value);
    }
    text
}

/// Password over TCP; the socket's directory is private to its owner, so no password there.
pub(super) fn host_based_authentication(first: &[String]) -> String {
    let mut text = String::new();
    for line in first {
        let _ = writeln!(text, "{line}");
    }
    text.push_str(
        "local all all trust\n\
         host replication all 127.0.0.1/32 scram-sha-256\n\
         host all all 127.0.0.1/32 scram-sha-256\n",
    );
    text
}

/// Makes a directory only its owner can enter.
pub(super) fn private_directory(path: &Path, owner: Option<RunAs>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    give(path, owner)
}

/// Writes a file for the eyes of the owner only.
pub(super) fn private_file(path: &Path, text: &str, owner: Option<RunAs>) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    give(path, owner)
}

fn give(path: &Path, owner: Option<RunAs>) -> io::Result<()> {
    match owner {
        Some(owner) => chown(path, Some(owner.uid), Some(owner.gid)),
        None => Ok(()),
    }
}

/// Copies a data directory nobody has started yet, with owners and permissions.
pub(super) fn copy_tree(from: &Path, to: &Path, owner: Option<RunAs>) -> io::Result<()> {
    fs::DirBuilder::new().mode(fs::metadata(from)?.mode() & 0o777).create(to)?;
    give(to, owner)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target, owner)?;
        } else {
            fs::copy(&source, &target)?;
            give(&target, owner)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_settings_come_last_and_are_quoted() {
        let text = configuration(5555, Path::new("/s"), &[("cluster_name".into(), "it's".into())]);
        assert!(text.contains("port = '5555'\n"));
        assert!(text.ends_with("cluster_name = 'it''s'\n"));
    }

    #[test]
    fn a_copied_tree_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("a");
        fs::create_dir_all(from.join("x/y")).unwrap();
        fs::write(from.join("x/y/f"), "1").unwrap();
        copy_tree(&from, &dir.path().join("b"), None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b/x/y/f")).unwrap(), "1");
    }
}
