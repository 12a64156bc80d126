//! Lets C and C++ code wait by a clock that nobody sets, where it can: `src/waits.rs`, which is there with the cfg `waits_replaced`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(waits_replaced)");
    let target = |part: &str| std::env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" && target("POINTER_WIDTH") == "64" {
        println!("cargo::rustc-cfg=waits_replaced");
        for function in ["pthread_cond_timedwait", "cnd_timedwait"] {
            println!("cargo::rustc-link-arg=-Wl,--wrap={function}");
        }
    }
}
