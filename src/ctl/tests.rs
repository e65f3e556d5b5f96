//! Commands against regions of their own.
