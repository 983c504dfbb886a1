//! Compiles every `bpf/*.bpf.c` with clang into a libbpf skeleton in `OUT_DIR`.

use std::path::PathBuf;
use std::{env, fs};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    println!("cargo:rerun-if-changed=bpf");
    for entry in fs::read_dir("bpf").expect("bpf/ is part of the source tree") {
        let source = entry.expect("bpf/ is readable").path();
        let file = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = file.strip_suffix(".bpf.c") else { continue };
        SkeletonBuilder::new()
            .source(&source)
            .obj(out.join(format!("{name}.bpf.o")))
            // Debian keeps asm/types.h in the multiarch directory, which clang's bpf target does not search.
            .clang_args([format!("-I/usr/include/{arch}-linux-gnu").as_str(), "-Wall", "-Werror", "-mcpu=v3"])
            .build_and_generate(out.join(format!("{name}.skel.rs")))
            .unwrap_or_else(|error| panic!("{}: {error:#}", source.display()));
    }
}
