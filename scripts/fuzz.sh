#!/bin/bash
# Runs every fuzz target for FUZZTIME each (default 10m): all that reads what
# others wrote, and the writers of images through their readers. Arguments name
# packages instead of all.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=("$@")
((${#packages[@]})) || packages=(./...)
failed=0
while read -r package; do
	# go list names packages, not which of them have targets: asking each would compile all.
	dir=$(go list -f '{{.Dir}}' "$package")
	grep -qs '^func Fuzz' "$dir"/*_test.go || continue
	while read -r target; do
		echo "==> $package $target"
		go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10m}" || failed=1
	done < <(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true)
done < <(go list "${packages[@]}")
exit "$failed"
