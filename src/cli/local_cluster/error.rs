//! Why a local cluster did not come up or did not obey; the texts say what to do about it.

use std::io;

/// Why a local cluster could not be started or told to do something.
#[derive(Debug, thiserror::Error)]
pub enum LocalClusterError {
    /// PostgreSQL's programs were not found.
    #[error(
        "PostgreSQL is not installed: {0}\n\
         hint: on Debian or Ubuntu `sudo apt-get install postgresql postgresql-contrib`, on macOS \
         `brew install postgresql@17`, on Fedora `sudo dnf install postgresql-server \
         postgresql-contrib`; or set PGWEIR_PG_BIN to the directory that has initdb and postgres"
    )]
    NoPostgres(String),
    /// We are root and found no other user to become.
    #[error(
        "PostgreSQL refuses to run as root, and none of these users exists: {0}\n\
         hint: `useradd --system postgres`, or run as an ordinary user"
    )]
    NoUser(String),
    /// A file or process operation failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// One of PostgreSQL's programs ended with an error.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program.
        program: String,
        /// Its standard error.
        said: String,
    },
    /// Something did not happen in time.
    #[error("gave up waiting: {0}")]
    Late(String),
    /// There is no node of that number.
    #[error("there is no node {0}")]
    NoNode(usize),
}

/// Names what was being done when the system refused.
pub(super) fn io<T>(doing: &str, result: io::Result<T>) -> Result<T, LocalClusterError> {
    result.map_err(|source| LocalClusterError::Io { doing: doing.to_owned(), source })
}
