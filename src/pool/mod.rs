//! Room `pool`: see the map in `lib.rs`.
