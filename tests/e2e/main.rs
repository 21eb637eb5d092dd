//! End-to-end tests: the real binary, real sockets, real files, real SIGKILL. Each test has a data directory and a
//! server of its own and talks to them only as a user would: by commands, HTTP and files.

mod access;
mod bench;
mod certificate;
mod damage;
mod disk;
mod imports;
mod keeping;
mod kills;
mod lifecycle;
mod load;
mod local;
mod memory;
mod model;
mod other_reader;
mod path;
mod pressure;
mod readings;
mod remote;
mod server;
mod times;
mod trouble;
