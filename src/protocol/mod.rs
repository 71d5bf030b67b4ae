//! The wire, as bytes: PostgreSQL's frontend/backend protocol 3.0 and 3.2 without any I/O.
//!
//! Nothing here knows sockets, pools or SQL. Lengths are checked before anything is allocated, and
//! a body is decoded only where someone must look into it. The manual's chapter "Frontend/Backend
//! Protocol" is the specification: <https://www.postgresql.org/docs/current/protocol.html>.

pub mod backend;
pub mod error_response;
pub mod extended;
pub mod frame;
pub mod frontend;
pub mod parameters;
pub mod reader;
pub mod sqlstate;
pub mod startup;
pub mod transaction;
pub mod writer;

pub use backend::BackendTag;
pub use error_response::{ErrorFields, ErrorResponse, Severity, raw_error};
pub use frame::{FrameError, FrameHeader};
pub use frontend::FrontendTag;
pub use reader::{Malformed, Reader};
pub use sqlstate::SqlState;
pub use transaction::TransactionStatus;
