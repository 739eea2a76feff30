//! Limits how much freed memory the process keeps.
//!
//! glibc returns a large block to the kernel on free only if the block is above the mmap threshold
//! and thus has its own mapping. By default that threshold grows to the size of the largest block
//! freed so far, up to 32 MiB: after the first long body, later ones share heaps with small blocks
//! that outlive them, and the heaps keep their pages. Under an attack with long bodies, a gateway then
//! took up to 71 MiB beyond `limits.memory`; with a fixed threshold it takes 10
//! (`docs/design/gateway.md`).

/// The mmap threshold. Smaller than the longest bodies, and large enough that ordinary answers never
/// pay for a mapping.
#[cfg(target_env = "gnu")]
const MAPPED_MIN: libc::c_int = 256 << 10;

/// The trim threshold: free space that the end of a heap may keep. Larger than what a few calls take,
/// so that heaps do not grow and shrink with each call.
#[cfg(target_env = "gnu")]
const FREE_MAX: libc::c_int = 1 << 20;

/// Makes the allocator return large blocks to the kernel when they are freed. Call this first in
/// `main`. Does nothing with C libraries other than glibc.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MAPPED_MIN), (libc::M_TRIM_THRESHOLD, FREE_MAX)]
    {
        // SAFETY: mallopt takes two integers, locks the allocator while it stores them, and leaves
        // every existing block as it is; the library rejects values that it cannot use.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}
