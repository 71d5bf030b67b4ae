//! Where PostgreSQL's programs are on this machine, and which operating system user may run them.
//!
//! `postgres` refuses to run as root, so for root we pick a user to become; for everybody else
//! there is nothing to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::LocalClusterError;

/// What a cluster cannot do without.
const NEEDED: &[&str] = &["initdb", "postgres", "pg_ctl", "psql"];

/// Users to become when we are root, best first: the package's own, then one every system has.
const UNPRIVILEGED: &[&str] = &["postgres", "_postgres", "nobody"];

/// Finds the directory with PostgreSQL's programs: `PGWEIR_PG_BIN`, else `pg_config`, else the
/// newest of the places where packages put it, else `PATH`.
pub(super) fn find() -> Result<PathBuf, LocalClusterError> {
    if let Some(named) = std::env::var_os("PGWEIR_PG_BIN").map(PathBuf::from) {
        return match missing(&named) {
            None => Ok(named),
            Some(program) => Err(LocalClusterError::NoPostgres(format!(
                "PGWEIR_PG_BIN is {}, but there is no {program} in it",
                named.display()
            ))),
        };
    }
    let mut candidates = Vec::new();
    candidates.extend(pg_config_bindir());
    candidates.extend(packaged());
    candidates.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    candidates.into_iter().find(|dir| missing(dir).is_none()).ok_or_else(|| {
        LocalClusterError::NoPostgres(format!("no directory has all of {}", NEEDED.join(", ")))
    })
}

/// The first needed program that `dir` lacks.
fn missing(dir: &Path) -> Option<&'static str> {
    NEEDED.iter().copied().find(|program| !dir.join(program).is_file())
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// Debian and the PGDG packages, Red Hat's, Homebrew's on both kinds of Mac, Postgres.app's;
/// within one place the newest version first.
fn packaged() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ] {
        let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let version = name.to_str()?.strip_prefix(prefix)?.split('.').next()?.parse().ok()?;
                Some((version, entry.path().join("bin")))
            })
            .collect();
        versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        found.extend(versions.into_iter().map(|(_, bin)| bin));
    }
    found.extend([PathBuf::from("/opt/homebrew/bin"), PathBuf::from("/usr/local/bin")]);
    found
}

/// User and group ids that PostgreSQL's programs run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunAs {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl RunAs {
    /// Whom to become: nobody else (`None`) unless we are root.
    pub(super) fn choose() -> Result<Option<Self>, LocalClusterError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let named = std::env::var("PGWEIR_PG_USER").ok();
        let names: Vec<&str> = match &named {
            Some(name) => vec![name.as_str()],
            None => UNPRIVILEGED.to_vec(),
        };
        names
            .iter()
            .find_map(|name| Some(Self { uid: id("-u", name)?, gid: id("-g", name)? }))
            .map(Some)
            .ok_or_else(|| LocalClusterError::NoUser(names.join(", ")))
    }
}

fn id(flag: &str, user: &str) -> Option<u32> {
    let output = Command::new("id").args([flag, user]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_programs_is_named() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(missing(empty.path()), Some("initdb"));
        for program in NEEDED {
            fs::write(empty.path().join(program), "").unwrap();
        }
        assert_eq!(missing(empty.path()), None);
    }

    #[test]
    fn root_is_never_the_user_of_postgres() {
        if let Some(user) = RunAs::choose().unwrap() {
            assert_ne!(user.uid, 0);
        }
    }
}
