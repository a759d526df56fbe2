#!/bin/sh
# Build the container image where no container engine runs: base from debootstrap, image by buildah. Needs root.
# The result is localhost/qsm-node in build/image/; then, for example:
#   scripts/build-image.sh run demo --output /data/demo
# usage: build-image.sh [run ARGUMENT...]
set -eu
cd "$(dirname "$0")/.."
work=$PWD/build/image
image=localhost/qsm-node:latest
store="--root $work/store --runroot $work/run --storage-driver vfs"

if [ "$(id -u)" -ne 0 ]; then
    echo "Building without a container engine needs root (with an engine: docker build -t qsm-node .)" >&2
    exit 1
fi

# Run the image's entry point as its user; the file system underneath is a chroot.
if [ "${1:-}" = run ]; then
    shift
    container=$(buildah $store from $image)
    trap 'buildah $store rm "$container" >/dev/null' EXIT
    buildah $store run --isolation chroot --network host "$container" -- qsm-node "$@"
    exit
fi

for program in debootstrap podman buildah; do
    command -v $program >/dev/null || { scripts/apt-install.sh "The image" debootstrap podman buildah; break; }
done
mkdir -p "$work"

base=localhost/base:bookworm
if ! buildah $store inspect --type image $base >/dev/null 2>&1; then
    rm -rf "$work/rootfs"
    debootstrap --variant=minbase bookworm "$work/rootfs"
    tar -C "$work/rootfs" -c . | podman $store import - $base
    rm -rf "$work/rootfs"
fi

# The build reaches package indexes with this machine's certificates.
certificates=/etc/ssl/certs/ca-certificates.crt
inside=/run/ca-certificates.crt
trust=
[ ! -e $certificates ] || trust="--volume $certificates:$inside:ro --build-arg PIP_CERT=$inside"
buildah $store bud --isolation chroot --network host --format docker --build-arg BASE=$base $trust -t $image .
