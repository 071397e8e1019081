//! preheat.
