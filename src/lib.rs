//! pgweir: a PostgreSQL connection pooler with read/write routing and hash sharding.
//!
//! # The map
//!
//! Folders are rooms, rooms stand on floors; `use crate::X` goes to a strictly lower floor only
//! (`tests/tidy.rs` checks it).
//!
//! ```text
//!  9  cli                          the command line
//!  8  app                          build, listen, reload, drain
//!  7  session                      one client, start to end
//!  6  admin                        the console
//!  5  health                       probes, lag, who is primary
//!  4  pool                         server connections, lent and returned
//!  3  server                       one connection to one PostgreSQL
//!  2  net   route   observe  catalog   sockets | the decision (pure) | logs, metrics, http | what tables and functions are (pure)
//!  1  sql   auth    cluster  clients     pure: meaning | exchanges | topology | who is connected
//!  0  protocol  config  task             pure: bytes | settings | the only tokio::spawn
//! -1  shard                             pure: which shard a key belongs to
//! ```
//!
//! # Glossary
//!
//! *frontend/backend* are directions of messages; *client/server* are connections;
//! *primary/replica* are roles. A *lease* is a server connection lent to one session.

pub mod shard;

pub mod config;
pub mod protocol;
pub mod task;

pub mod auth;
pub mod clients;
pub mod cluster;
pub mod sql;

pub mod catalog;
pub mod net;
pub mod observe;
pub mod route;

pub mod admin;
pub mod app;
pub mod cli;
pub mod health;
pub mod pool;
pub mod server;
pub mod session;
