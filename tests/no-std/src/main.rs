//! A program with nothing below it: no standard library, no start files, an allocator that only counts up, a panic handler
//! that stops. It is linked, not run: what is tried is that the core needs nothing else.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use protocol_core::crypto::secret::Secret;
use protocol_core::entropy::{Entropy, NoEntropy};
use protocol_core::identity::NetworkIdentity;
use protocol_core::pairing::code::PairingCode;

/// Hands out one megabyte, once.
struct Arena {
    memory: [u8; 1 << 20],
    used: AtomicUsize,
}

#[global_allocator]
static ARENA: Arena = Arena { memory: [0; 1 << 20], used: AtomicUsize::new(0) };

// SAFETY: every call gets bytes that no other call gets, aligned as asked, or a null pointer.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let wanted = layout.size() + layout.align();
        let at = self.used.fetch_add(wanted, Ordering::Relaxed);
        if at.saturating_add(wanted) > self.memory.len() {
            return core::ptr::null_mut();
        }
        let start = self.memory.as_ptr().cast_mut().wrapping_add(at);
        start.wrapping_add(start.align_offset(layout.align()))
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// There is no randomness here either.
struct Nothing;

impl Entropy for Nothing {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), NoEntropy> {
        Err(NoEntropy)
    }
}

/// Where a loader would begin.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let identity = NetworkIdentity::from_seed(Secret::new(black_box([7; 32])));
    black_box(identity.fingerprint());
    black_box(PairingCode::generate(&mut Nothing).is_err());
    black_box(Vec::<u8>::with_capacity(black_box(16)));
    loop {
        core::hint::spin_loop();
    }
}
