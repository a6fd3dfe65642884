//! The binary: hands the arguments over and returns the exit code.

use std::process::ExitCode;

/// glibc keeps what bodies of all sizes have taken and given back, a little more each hour (docs/performance.md, "Soak");
/// jemalloc returns it within seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    waystation::cli::run(std::env::args_os())
}
