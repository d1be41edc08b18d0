//! Generates the Rust code and the descriptor set with a protobuf compiler
//! written in Rust, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["inference", "request", "model", "admin"].map(|name| format!("ternion/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=ternion");
    println!("cargo:rerun-if-changed=google");
    let descriptors = protox::compile(files, ["."])?;

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("ternion.v1.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
