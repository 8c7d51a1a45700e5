#!/bin/sh
# Makes the CUDA build of torch in PREFIX a small one for CPUs. Usage: prune_cuda.sh PREFIX
# libtorch_cuda.so is linked against three gigabytes of libraries that a machine without a GPU never calls.
# Each that is not installed becomes a stub: it has the symbols that torch asks for, and every call returns an error.
set -eu
site=$(echo "$1"/lib/python3*/site-packages)
lib=$site/torch/lib
for tool in as ld nm readelf; do
    command -v $tool >/dev/null || { echo "prune_cuda.sh needs $tool: install binutils in the base image" >&2; exit 1; }
done
case $(uname -m) in
    x86_64) fail='mov $1, %eax; ret' ;;
    aarch64) fail='mov w0, #1; ret' ;;
    *) echo "prune_cuda.sh knows no $(uname -m)" >&2; exit 1 ;;
esac

# Headers are for compiling C++ extensions; the two libraries are loaded on the first use of a GPU.
rm -rf "$site"/torch/include "$site"/torch/share "$site"/torch/bin/protoc* "$site"/nvidia/*/include "$site"/nvidia/*/lib/*.a \
    "$lib"/libtorch_cuda_linalg.so "$lib"/libcaffe2_nvrtc.so

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in "$lib"/*.so*; do
    ldd "$file" | awk '/not found/ {print $1}' >>"$work/missing"
    nm -D --undefined-only --with-symbol-versions "$file" | awk '$1 == "U" {print $2}' >>"$work/wanted"
    readelf --version-info --wide "$file" | awk '/ File: / {file = $5} / Name: .* Flags: / {print file, $3}' >>"$work/versions"
done
for list in missing wanted versions; do sort -u -o "$work/$list" "$work/$list"; done

while read -r name; do
    version=$(awk -v name="$name" '$1 == name {print $2}' "$work/versions")
    set -- -shared -soname "$name" -z noexecstack -s
    if [ -n "$version" ]; then
        sed -n "s/@$version\$//p" "$work/wanted" >"$work/symbols"
        echo "$version { global: *; };" >"$work/script"
        set -- "$@" --version-script "$work/script"
    else
        stem=${name#lib} # without a version, a name begins with its library's: ncclSend, cuFileRead
        awk -v stem="${stem%%.*}" '!/@/ && index(tolower($1), tolower(stem)) == 1' "$work/wanted" >"$work/symbols"
    fi
    {
        echo .text
        sed 's/.*/.globl &\n.type &, %function\n&:/' "$work/symbols"
        echo "$fail"
    } >"$work/stub.s"
    as -o "$work/stub.o" "$work/stub.s"
    ld "$@" -o "$lib/$name" "$work/stub.o"
    echo "stub $name: $(wc -l <"$work/symbols") symbols"
done <"$work/missing"
