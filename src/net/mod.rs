//! Room `net`: see the map in `lib.rs`.

pub mod tls;
