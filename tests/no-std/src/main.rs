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

/// What compilers take for granted of any platform: moving, filling and comparing memory. Nothing else is provided.
mod memory {
    use core::ffi::c_int;

    // SAFETY, of all four: the contract is that of the C functions of these names.

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        for at in 0..count {
            unsafe { to.add(at).write_volatile(from.add(at).read()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        let backwards = from.addr() < to.addr();
        for step in 0..count {
            let at = if backwards { count - 1 - step } else { step };
            unsafe { to.add(at).write_volatile(from.add(at).read()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: c_int, count: usize) -> *mut u8 {
        for at in 0..count {
            unsafe { to.add(at).write_volatile(byte.to_le_bytes()[0]) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> c_int {
        for at in 0..count {
            let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
            if x != y {
                return c_int::from(x) - c_int::from(y);
            }
        }
        0
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
