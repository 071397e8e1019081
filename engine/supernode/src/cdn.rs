//! cdn.
