//! The whole engine, over a real directory: what goes in comes out, once, whatever happens in between.
#![cfg(not(loom))]

mod compaction;
mod crash;
mod doctor;
mod fairness;
mod faults;
mod first_wins;
mod garbage;
mod health;
mod last;
mod open;
mod pressure;
mod read;
mod requests;
mod retention;
mod rig;
mod rollups;
mod trouble;
