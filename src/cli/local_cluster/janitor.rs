//! Who cleans up: a small shell that outlives this process by a moment.
//!
//! It waits for the end of its standard input. The kernel closes the other end when this process
//! ends in whatever way, `kill -9` included, so no signal handler is needed.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};

use super::binaries::RunAs;
use super::error::io;
use super::{ClusterAccess, LocalClusterError, unprivileged};

/// Waits for the end of its standard input, that is of us, then stops what runs and removes all.
const JANITOR: &str = r#"
trap '' INT TERM HUP QUIT
cat >/dev/null
for data in "$1"/*/; do
    [ -f "$data/postmaster.pid" ] && "$0" -s -m immediate -D "$data" stop &
done
wait
cd / && rm -rf "$1"
"#;

/// The running shell; dropping this lets it work and waits until it is done.
#[derive(Debug)]
pub(super) struct Janitor(Child);

impl Janitor {
    /// Puts the janitor in charge of the cluster's directory.
    pub(super) fn hire(access: &ClusterAccess, run_as: Option<RunAs>) -> Result<Self, LocalClusterError> {
        let mut command = unprivileged(Path::new("/bin/sh"), &access.directory, run_as);
        command.arg("-c").arg(JANITOR).arg(access.programs.join("pg_ctl")).arg(&access.directory);
        // Its own process group: Ctrl-C in the terminal must not reach it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        io("starting /bin/sh", command.spawn()).map(Self)
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
