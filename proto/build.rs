//! Compiles the cluster's protobuf file without a protoc on the build machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/shoal.proto");
    let files = protox::compile(["proto/shoal.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
