//! One connection to one PostgreSQL: opened, logged in, asked, and known to be clean or not.
//!
//! Nothing here knows pools or clients' sessions.

mod cancel;
mod connection;
mod login;
mod prepared;
mod settings;
mod simple;

pub use cancel::send_cancel;
pub use connection::{ServerConn, ServerInfo};
pub use login::{ConnectError, ServerTarget, connections_opened};
pub use prepared::{Definition, Definitions, Holds, Parsed, PreparedSet, decoy_name, is_server_name};
pub use settings::{Settings, SettingsPool, literal, normalize_name};
pub use simple::{Answer, QueryError, RowShape, Rows, row_shape};
