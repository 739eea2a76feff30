//! How much freed memory the process may keep.
//!
//! glibc gives a large block back to the kernel as soon as it is freed, but only while blocks of its
//! size have a mapping of their own. By default the size at which they get one rises to that of the
//! largest block ever freed, up to 32 MiB: after the first long body, all later ones share heaps with
//! small blocks that outlive them, and the heaps keep their pages. A gateway that is attacked with
//! long bodies then took up to 71 MiB beyond `limits.memory`; with a fixed size it takes 10
//! (`docs/design/gateway.md`).

/// Blocks of at least this size have a mapping of their own. Smaller than the longest bodies, large
/// enough that ordinary answers never pay for a mapping.
#[cfg(target_env = "gnu")]
const MAPPED_MIN: libc::c_int = 256 << 10;

/// The free space that the end of a heap may keep. Larger than what a few calls take, so that heaps
/// do not grow and shrink with each.
#[cfg(target_env = "gnu")]
const FREE_MAX: libc::c_int = 1 << 20;

/// Makes the allocator give long blocks back when they are freed. Call it first in `main`; with
/// another C library than glibc it does nothing.
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
