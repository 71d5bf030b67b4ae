//! Room `observe`: see the map in `lib.rs`.
