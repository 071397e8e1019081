//! piece_error.
