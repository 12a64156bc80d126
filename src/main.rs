//! Parses arguments, calls a command, prints the error.

fn main() -> std::process::ExitCode {
    #[cfg(feature = "failpoints")]
    let _points = fail_points();
    callsieve::cli::main()
}

/// Takes `FAILPOINTS` in. A panic ends the process at once, as a kill does: nothing is unwound, closed or written any more.
#[cfg(feature = "failpoints")]
fn fail_points() -> fail::FailScenario<'static> {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    fail::FailScenario::setup()
}
