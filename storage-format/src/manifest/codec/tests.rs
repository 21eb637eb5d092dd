//! Tests of manifest objects.
