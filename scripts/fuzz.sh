#!/bin/bash
# Runs every fuzz target of builder and installer for FUZZTIME each (default
# 10m): all that reads what others wrote, and the writers of images through their
# readers. Arguments name packages instead of these.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=("$@")
((${#packages[@]})) || packages=(./rootfs/... ./image/... ./iso/... ./installer/...)
failed=0
while read -r package; do
	while read -r target; do
		echo "==> $package $target"
		go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10m}" || failed=1
	done < <(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true)
done < <(go list "${packages[@]}")
exit "$failed"
