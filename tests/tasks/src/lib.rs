//! What `cargo serve`, `cargo verify` and the end-to-end tests share: running
//! cargo, and the programs of others that tests talk to.
#![forbid(unsafe_code)]

pub mod aarch64;
pub mod c_plugin;
pub mod cargo;
pub mod chart;
pub mod collector;
pub mod fuzz;
pub mod go_client;
pub mod outcome;
pub mod proto;
pub mod python_client;
pub mod rust_tests;
pub mod tools;
