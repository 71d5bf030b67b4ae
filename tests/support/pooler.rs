//! pgweir as its users run it: the built binary with a configuration file, on free ports.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long pgweir may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// `SSLRequest`: length 8, code 80877103. Any answer of one byte means that clients are served.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A running pgweir; stopped when dropped. Its log is shown if the test is failing.
pub struct Pgweir {
    /// Where clients connect, on 127.0.0.1.
    pub port: u16,
    /// Where `/metrics` and `/readyz` are, on 127.0.0.1.
    pub http_port: u16,
    /// The test plants a leak; otherwise what `pool.debug_check` finds fails it.
    pub may_be_unclean: bool,
    child: Child,
    directory: tempfile::TempDir,
}

impl Pgweir {
    /// Starts pgweir with `yaml`, to which `listen` and `http` on free ports are added, and waits
    /// until it answers.
    pub fn start(yaml: &str) -> Self {
        Self::start_with(yaml, None)
    }

    /// As [`Self::start`]; listens in a directory, too.
    pub fn start_with(yaml: &str, sockets: Option<&std::path::Path>) -> Self {
        Self::start_under(yaml, sockets, Command::new(env!("CARGO_BIN_EXE_pgweir")))
    }

    /// As [`Self::start`], with names looked up in this file, which may change. `None` where that is not allowed:
    /// it takes a mount namespace of its own.
    pub fn start_with_hosts(yaml: &str, hosts: &std::path::Path) -> Option<Self> {
        let mount = format!("mount --bind '{}' /etc/hosts", hosts.display());
        let allowed = Command::new("unshare").args(["-m", "sh", "-c", &mount]).output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let mut command = Command::new("unshare");
        let program = env!("CARGO_BIN_EXE_pgweir");
        command.args(["-m", "sh", "-c", &format!("{mount} && exec \"{program}\" \"$@\""), "sh"]);
        Some(Self::start_under(yaml, None, command))
    }

    fn start_under(yaml: &str, sockets: Option<&std::path::Path>, mut command: Command) -> Self {
        let (port, http_port) = free_ports();
        let unix = sockets.map_or_else(String::new, |path| format!(", \"unix:{}\"", path.display()));
        let yaml = format!("listen: [\"127.0.0.1:{port}\"{unix}]\nhttp: \"127.0.0.1:{http_port}\"\n{yaml}");
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("pooler.yaml");
        fs::write(&config, &yaml).unwrap();
        let log = File::create(directory.path().join("pgweir.log")).unwrap();
        let child = command
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut pgweir = Self { port, http_port, may_be_unclean: false, child, directory };
        pgweir.wait_until_it_answers(&yaml);
        pgweir
    }

    fn wait_until_it_answers(&mut self, yaml: &str) {
        let begun = Instant::now();
        while !answers(self.port) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("pgweir ended at once with {status}\n{}\nits configuration:\n{yaml}", self.log());
            }
            assert!(begun.elapsed() < PATIENCE, "pgweir does not answer\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("pgweir.log")).unwrap_or_default()
    }

    /// The configuration file, for tests that change it and reload.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("pooler.yaml")
    }

    /// A connection URL through pgweir, as `app`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://app:app@127.0.0.1:{}/{database}", self.port)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `HUP`, …).
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "signal {name} could not be sent");
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// The body of an HTTP GET on the `http` port, and its status code.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("not an HTTP answer");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("no status code");
        (status, body.to_owned())
    }
}

impl Drop for Pgweir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of pgweir ---\n{}", self.log());
            return;
        }
        let log = self.log();
        let unclean: Vec<_> = log.lines().filter(|line| line.contains("came back unclean")).collect();
        assert!(self.may_be_unclean || unclean.is_empty(), "{}", unclean.join("\n"));
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && stream.write_all(&SSL_REQUEST).is_ok()
        && stream.read_exact(&mut answer).is_ok()
}

/// Two ports nobody listens on; both held until both are chosen. Below those that systems give to whoever asks for
/// any: one of those could be somebody else's connection by the time it is used.
fn free_ports() -> (u16, u16) {
    let [first, second] = [(); 2].map(|()| {
        std::iter::repeat_with(|| 10_000 + (RandomState::new().build_hasher().finish() % 22_000) as u16)
            .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .unwrap()
    });
    (first.local_addr().unwrap().port(), second.local_addr().unwrap().port())
}
