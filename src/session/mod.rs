//! Room `session`: see the map in `lib.rs`.
