//! A client that speaks bytes: for what no driver would send, and to compare answers byte by byte.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use pgweir::auth::{ScramCache, ServerExchange, ServerStep, SystemRandom};
use pgweir::config::Secret;
use pgweir::protocol::writer::{cstr, message};
use pgweir::protocol::{frame, frontend, startup};

/// One message: tag and body.
pub type Message = (u8, Vec<u8>);

/// Appends a Parse without types of parameters.
pub fn parse(out: &mut BytesMut, name: &str, sql: &str) {
    message(out, b'P', |b| {
        cstr(b, name.as_bytes());
        cstr(b, sql.as_bytes());
        b.put_i16(0);
    });
}

/// Appends a Bind with everything as text.
pub fn bind(out: &mut BytesMut, portal: &str, name: &str, values: &[&str]) {
    message(out, b'B', |b| {
        cstr(b, portal.as_bytes());
        cstr(b, name.as_bytes());
        b.put_i16(0);
        b.put_i16(values.len() as i16);
        for value in values {
            b.put_i32(value.len() as i32);
            b.put_slice(value.as_bytes());
        }
        b.put_i16(0);
    });
}

/// Appends a Describe or Close (`tag`) of a statement or portal (`kind`).
pub fn named(out: &mut BytesMut, tag: u8, kind: u8, name: &str) {
    message(out, tag, |b| {
        b.put_u8(kind);
        cstr(b, name.as_bytes());
    });
}

/// Appends an Execute.
pub fn execute(out: &mut BytesMut, portal: &str, rows: i32) {
    message(out, b'E', |b| {
        cstr(b, portal.as_bytes());
        b.put_i32(rows);
    });
}

/// A connection.
pub struct RawClient {
    pub socket: TcpStream,
    inbox: Vec<u8>,
    /// What came before the first ReadyForQuery.
    pub greeting: Vec<Message>,
}

impl RawClient {
    /// Connects without saying anything.
    pub fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, inbox: Vec::new(), greeting: Vec::new() }
    }

    /// Connects and logs in as `app`.
    pub fn login(port: u16, database: &str) -> Self {
        let mut out = BytesMut::new();
        startup::startup_message(&mut out, [("user", "app"), ("database", database)].into_iter());
        Self::connect(port).log_in(&out)
    }

    /// Sends this startup packet and logs in as `app`.
    pub fn log_in(mut self, startup: &[u8]) -> Self {
        self.send(startup);
        let secret = Secret::new("app");
        let mut exchange = ServerExchange::new("app", Some(&secret), std::sync::Arc::new(ScramCache::new()));
        loop {
            let (tag, body) = self.message();
            match tag {
                b'R' => {
                    let mut step = exchange.on_request(&body, &SystemRandom);
                    if let ServerStep::Derive(work) = step {
                        work.run();
                        step = exchange.on_derived();
                    }
                    if let ServerStep::Send(answer) = step {
                        let mut out = BytesMut::new();
                        frontend::password(&mut out, &answer);
                        self.send(&out);
                    }
                }
                b'Z' => return self,
                _ => {
                    let failed = tag == b'E';
                    self.greeting.push((tag, body));
                    if failed {
                        return self;
                    }
                }
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends if the connection takes it.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// The next message if it comes in time; `None` when the server has closed.
    pub fn message_within(&mut self, patience: Duration) -> Result<Option<Message>, ()> {
        if let Some((header, body, _)) = frame::split(&self.inbox, usize::MAX).unwrap() {
            let message = (header.tag, body.to_vec());
            self.inbox.drain(..header.total_len);
            return Ok(Some(message));
        }
        let mut chunk = [0; 65536];
        self.socket.set_read_timeout(Some(patience)).unwrap();
        match self.socket.read(&mut chunk) {
            Ok(0) => Ok(None),
            Ok(count) => {
                self.inbox.extend_from_slice(&chunk[..count]);
                self.message_within(patience)
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                Err(())
            }
            Err(_) => Ok(None),
        }
    }

    /// The next message.
    pub fn message(&mut self) -> Message {
        self.try_message().expect("the server closed the connection")
    }

    /// The next message; `None` when the server has closed.
    pub fn try_message(&mut self) -> Option<Message> {
        loop {
            if let Some((header, body, _)) = frame::split(&self.inbox, usize::MAX).unwrap() {
                let message = (header.tag, body.to_vec());
                self.inbox.drain(..header.total_len);
                return Some(message);
            }
            let mut chunk = [0; 65536];
            match self.socket.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.inbox.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// One byte, as after SSLRequest.
    pub fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.socket.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// Messages up to the `count`th ReadyForQuery, or to the end of the connection.
    pub fn until_ready(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut seen = 0;
        while seen < count {
            let Some(message) = self.try_message() else {
                messages.push((0, b"closed".to_vec()));
                break;
            };
            seen += usize::from(message.0 == b'Z');
            messages.push(message);
        }
        messages
    }
}
