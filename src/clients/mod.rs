//! Room `clients`: see the map in `lib.rs`.
