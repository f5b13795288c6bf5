#!/bin/sh
# Installs the C library: install.sh PREFIX [FOLDER], header, libraries, and what pkg-config and CMake find them by. FOLDER
# holds libraries that cargo built; without it they are built in release mode.
set -eu
prefix=${1:?"usage: install.sh PREFIX [FOLDER]"}
here=$(cd "$(dirname "$0")" && pwd)
built=${2:-}
if [ -z "$built" ]; then
    (cd "$here/../.." && cargo build --release --locked --package sherry-capi)
    built=${CARGO_TARGET_DIR:-$here/../../target}/release
fi
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml")
major=${version%%.*}
mkdir -p "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/sherry"
prefix=$(cd "$prefix" && pwd)
cp "$here/include/sherry.h" "$prefix/include/"
cp "$built/libsherry_c.a" "$prefix/lib/libsherry.a"
# The shared library as the system has it; none where there are only static ones (iOS, Android without its tools).
needs="-lpthread -ldl -lm -lgcc_s" # of the static one
if [ -e "$built/libsherry_c.so" ]; then
    cp "$built/libsherry_c.so" "$prefix/lib/libsherry.so.$version"
    ln -sf "libsherry.so.$version" "$prefix/lib/libsherry.so.$major"
    ln -sf "libsherry.so.$major" "$prefix/lib/libsherry.so"
elif [ -e "$built/libsherry_c.dylib" ]; then
    cp "$built/libsherry_c.dylib" "$prefix/lib/libsherry.$major.dylib"
    ln -sf "libsherry.$major.dylib" "$prefix/lib/libsherry.dylib"
    needs=
elif [ -e "$built/sherry_c.dll" ]; then
    mkdir -p "$prefix/bin"
    # Programs look for the name that is in the import library.
    cp "$built/sherry_c.dll" "$prefix/bin/sherry_c.dll"
    cp "$built/libsherry_c.dll.a" "$prefix/lib/libsherry.dll.a"
    needs="-lkernel32 -lntdll -luserenv -lws2_32 -ldbghelp"
fi
for file in lib/pkgconfig/sherry.pc lib/cmake/sherry/sherry-config.cmake; do
    sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|; s|@NEEDS@|$needs|" "$here/$(basename "$file").in" >"$prefix/$file"
done
