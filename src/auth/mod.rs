//! Room `auth`: see the map in `lib.rs`.
