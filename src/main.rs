//! Parses arguments, calls a command, prints the error.

fn main() -> std::process::ExitCode {
    callsieve::cli::main()
}
