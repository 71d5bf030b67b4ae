//! Room `protocol`: see the map in `lib.rs`.
