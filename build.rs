//! Lets C and C++ code wait by a clock that nobody sets (`src/waits.rs`).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |part: &str| std::env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    // As in `src/lib.rs`.
    if target("OS") == "linux" && target("ENV") == "gnu" && target("POINTER_WIDTH") == "64" {
        for function in ["pthread_cond_timedwait", "cnd_timedwait"] {
            println!("cargo::rustc-link-arg=-Wl,--wrap={function}");
        }
    }
}
