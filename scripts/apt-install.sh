#!/bin/sh
# Install Debian packages as root or with sudo; never start or enable a service that comes with them.
# usage: apt-install.sh REASON PACKAGE...      exit 1 with one line of advice where that is not possible
set -eu
reason=$1
shift

advice() {
    echo "$reason: please install $* (Debian and Ubuntu: sudo apt-get install $*)" >&2
    exit 1
}

command -v apt-get >/dev/null || advice "$@"
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo"
elif command -v sudo >/dev/null && [ -t 0 ]; then
    echo "$reason: sudo may ask for your password to install $*"
    as_root="sudo"
else
    advice "$@"
fi

# Maintainer scripts ask policy-rc.d before they start a service: 101 is "no". An existing policy is left alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
    trap '$as_root rm -f $policy' EXIT
    trap 'exit 1' INT TERM HUP
fi

echo "$reason: installing $*"
apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0"
log=$(mktemp)
if ! { $apt update && $apt install --yes --no-install-recommends "$@"; } >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    advice "$@"
fi
rm -f "$log"
