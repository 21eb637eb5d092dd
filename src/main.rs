//! The program `icecore`: everything is in the library beside it.

fn main() -> std::process::ExitCode {
    icecore::cli::main()
}
