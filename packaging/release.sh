#!/usr/bin/env bash
# Builds the wheel and the sdist into dist/, checks both, and tries each in an empty
# environment. With an argument, that has to be the version. What is right is published by
# hand: twine upload dist/*
#   PYTHON=python3.12 packaging/release.sh [VERSION]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version=$("$python" -c 'import re; print(re.search(r"^__version__ = \"(.+)\"", open("lth/__init__.py").read(), re.M)[1])')
if [ "${1:-$version}" != "$version" ]; then
    echo "this is version $version, not $1" >&2
    exit 2
fi
if ! grep -q "^## $version\$" CHANGELOG.md; then
    echo "CHANGELOG.md has no heading '## $version'" >&2
    exit 2
fi

"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet build twine
rm -rf dist
"$work/tools/bin/python" -m build --outdir dist
"$work/tools/bin/python" -m twine check --strict dist/*

pins=()
minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ -f "constraints/py$minor.txt" ]; then
    pins=(-c "constraints/py$minor.txt")
fi
for made in dist/*.whl dist/*.tar.gz; do
    "$python" -m venv --clear "$work/empty"
    "$work/empty/bin/python" -m pip install --quiet ${pins[@]+"${pins[@]}"} "$made"
    "$work/empty/bin/python" -I packaging/smoke.py "$version"
done
ls -l dist
