//! Room `route`: see the map in `lib.rs`.
