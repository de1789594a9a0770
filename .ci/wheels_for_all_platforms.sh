#!/usr/bin/env bash
# The lock must resolve to wheels, with no build, on each platform that we name. A dry run: it
# reads the index and installs nothing. MLX sets both floors: glibc 2.35 and macOS 14.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$(command -v uv || echo .venv/bin/uv)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$uv" export --quiet --frozen --no-dev --no-emit-project --no-hashes -o "$folder/locked.txt"
export MACOSX_DEPLOYMENT_TARGET=14.0
for platform in x86_64-manylinux_2_35 aarch64-manylinux_2_35 aarch64-apple-darwin; do
  for python in 3.11 3.12 3.13; do
    "$uv" pip install --quiet --dry-run --no-deps --only-binary :all: \
      --python-platform "$platform" --python-version "$python" \
      --target "$folder/none" -r "$folder/locked.txt"
    echo "wheels for $platform, Python $python"
  done
done
