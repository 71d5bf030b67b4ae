//! Room `health`: see the map in `lib.rs`.
