//! Room `sql`: see the map in `lib.rs`.
