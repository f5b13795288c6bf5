//! The name that programs linked with the shared library look for: that of its interface, not of its file.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = std::env::var("CARGO_PKG_VERSION_MAJOR").unwrap_or_default();
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux" | "android") => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libsherry.so.{version}"),
        Ok("macos") => println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libsherry.{version}.dylib"),
        _ => {}
    }
}
