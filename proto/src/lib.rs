//! The `ternion.v1` protocol: messages, clients and servers generated from
//! the `.proto` files beside this crate, and their descriptor set.
#![forbid(unsafe_code)]

/// Everything in package `ternion.v1`.
pub mod v1 {
    #![allow(
        clippy::allow_attributes_without_reason,
        clippy::doc_markdown,
        clippy::large_enum_variant,
        unreachable_pub,
        unused_qualifications,
        reason = "generated code"
    )]
    tonic::include_proto!("ternion.v1");
}

/// The descriptor set of all of the above, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ternion.v1.bin"));
