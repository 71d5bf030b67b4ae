//! pgweir in front of the demo's servers: the same program, run as its users run it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::DemoError;

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `pgweir run`; killed if dropped without [`Pooler::stop`].
pub(super) struct Pooler {
    child: Child,
    log_file: PathBuf,
}

impl Pooler {
    /// Starts it with a configuration and waits until it accepts clients on `port`.
    pub(super) async fn start(config: &Path, port: u16) -> Result<Self, DemoError> {
        let log_file = config.with_extension("log");
        let log = std::fs::File::create(&log_file)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            // Out of the way of the progress line; Ctrl-C must end the workload before the pooler.
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut pooler = Self { child, log_file };
        let listening = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = listening => Ok(pooler),
            ended = pooler.ended() => Err(DemoError::Pooler(ended)),
            () = tokio::time::sleep(PATIENCE) => Err(DemoError::Pooler("it does not listen".to_owned())),
        }
    }

    /// Resolves if it ends by itself, with how.
    ///
    /// # Cancel safety
    ///
    /// Waiting for a process can be given up and begun again.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => {
                let log = std::fs::read_to_string(&self.log_file).unwrap_or_default();
                format!("it ended with {status}\n{}", log.trim_end())
            }
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }

    /// Lets it drain, for a moment.
    pub(super) async fn stop(mut self) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
        }
        // What has not ended by then is killed on drop.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await;
    }
}
