//! Room `server`: see the map in `lib.rs`.
