//! The program has an entry point of its own, so the usual start files are left out.

fn main() {
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
}
