//! piece_set.
