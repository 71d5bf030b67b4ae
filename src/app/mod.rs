//! Room `app`: see the map in `lib.rs`.
