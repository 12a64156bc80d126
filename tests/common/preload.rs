//! What stands between a process and its C library: C of the tests, compiled when it is first needed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `NAME.c` from here, as a library for `LD_PRELOAD`.
pub fn compiled(name: &str) -> PathBuf {
    // Not under its name until it is whole: another test may make it, too.
    let (folder, own) = (Path::new(env!("CARGO_TARGET_TMPDIR")), format!("{name}-{}.so", std::process::id()));
    let (library, part) = (folder.join(name).with_extension("so"), folder.join(own));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common").join(name).with_extension("c");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).args([&part, &source]).status();
    assert!(status.expect("a C compiler, as Rust's linker").success());
    std::fs::rename(part, &library).unwrap();
    library
}
