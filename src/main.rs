//! The binary: hands the arguments over and returns the exit code.

use std::process::ExitCode;

/// glibc's allocator is slower under this load, and keeps more of what bodies of all sizes have taken and given back
/// (docs/performance.md, "What was tried").
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    waystation::cli::run(std::env::args_os())
}
