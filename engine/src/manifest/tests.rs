//! Tests of the manifest store.
