//! Tests of segments in the store.
