//! What `cargo serve`, `cargo verify` and the end-to-end tests share: running
//! cargo, and the programs of others that tests talk to.
#![forbid(unsafe_code)]

pub mod cargo;
pub mod collector;
pub mod outcome;
pub mod tools;
