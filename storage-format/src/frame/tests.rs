//! Tests of the frame's codec.
