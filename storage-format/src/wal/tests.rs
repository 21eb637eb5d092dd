//! Tests of the WAL codec.
