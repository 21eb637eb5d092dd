//! The program `icecore`: everything is in the library beside it.

/// Gives memory back to the system some seconds after it was freed, which the system's allocator does not
/// (docs/decisions/0010-allocator.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    icecore::cli::main()
}
