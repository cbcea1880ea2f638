//! The server binary. Started under another name, such as `etcd`, it is the same program.

#![allow(
    unsafe_code,
    reason = "the allocator's options are set by a call to it"
)]

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's option for the time that free memory waits to be used again before the system gets
/// it back, in milliseconds.
const PURGE_DELAY: c_int = 15;
/// A tenth of what mimalloc takes. Under load memory is freed in waves, by each checkpoint, and
/// nothing hands the last one back once the load ends: a quarter of what is resident.
const PURGE_DELAY_MS: c_long = 100;

unsafe extern "C" {
    /// Leaves an option alone that the environment has set.
    fn mi_option_set_default(option: c_int, value: c_long);
}

fn main() -> ExitCode {
    // SAFETY: mimalloc's own function, with its signature; it is linked as the allocator.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
    keelson::process::main()
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn mi_option_get(option: c_int) -> c_long;
    }

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        let default_ms = 1000;
        // SAFETY: mimalloc's own functions, with their signatures.
        let found = unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(found, default_ms, "mimalloc's options have moved");
        // SAFETY: as above.
        unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
        // SAFETY: as above.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, PURGE_DELAY_MS);
    }
}
