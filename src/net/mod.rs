//! Sockets: streams of bytes in and out, connecting, TLS. No protocol logic.

mod buffers;
pub mod connect;
pub mod framed;
pub mod listen;
pub mod stream;
pub mod tls;

pub use buffers::trim as trim_buffers;
pub use framed::Wire;
pub use stream::Stream;
