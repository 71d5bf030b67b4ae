//! Nothing: the exercises are in tests/.
