#!/usr/bin/env bash
# Tries the wheel on the Python of another suite of Debian, with the newest packages that
# pip has for it: trixie has Python 3.13, sid a newer one.
#
#     bash packaging/debian.sh SUITE [FOLDER]
#
# Needs root, Debian and its debootstrap. The suite lies in FOLDER, 2 GB with all that is
# installed, and what is there already is used again; by default it goes at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=$1
work=$(mktemp -d)
root=${2:-$work/$suite}
leave() {
    umount "$root/proc" 2> /dev/null || true # before anything is deleted
    rm -rf "$work"
}
trap leave EXIT

if [ ! -x "$root/usr/bin/python3" ]; then
    places=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null || true)
    mirror=$(sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb +(\[[^]]*\] +)?([^ ]+).*/\2/p' <<< "$places" | head -1)
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$suite" "$root" "$mirror" > "$work/log" || { tail "$work/log"; exit 1; }
fi
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [ ! -f "$file" ] || cp -L "$file" "$root$file"
done
rm -rf "$root/lth"
mkdir "$root/lth"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$root/lth" .
cp packaging/smoke.py "$root/lth"
mount --bind /proc "$root/proc"
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' lth/__init__.py)
chroot "$root" env -i PATH=/usr/bin:/bin HOME=/lth LANG=C.UTF-8 \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt bash -euc "
        cd /lth
        python3 -m venv venv
        venv/bin/pip install --quiet ./*.whl
        venv/bin/pip list 2> /dev/null | grep -E '^(jax|flax|optax|orbax-checkpoint) '
        venv/bin/python -I smoke.py $version"
