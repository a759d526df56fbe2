#!/bin/sh
# The real DICOM peers that tests talk to. Where they cannot be installed, their tests are skipped
# (with CI=true: they fail).
set -eu
PATH="$PATH:/usr/sbin:/sbin"

missing=
for program in Orthanc storescu ip strace; do
    command -v $program >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

"$(dirname "$0")/apt-install.sh" "Peers for the tests" orthanc orthanc-dicomweb dcmtk openssl iproute2 libgomp1 strace

# Debian enables Orthanc as a service at boot. Where it was not there before, it is here for the tests alone.
case "$missing" in *Orthanc*)
    if command -v systemctl >/dev/null; then
        [ "$(id -u)" -eq 0 ] && as_root= || as_root=sudo
        $as_root systemctl --quiet disable orthanc
    fi
esac
