#!/bin/bash
# make run: see test/run. The disk in build/run is kept; the image is built
# when it is needed for a new one and a source is younger than it.
set -euo pipefail
cd "$(dirname "$0")/.."

stale() {
	local iso
	iso=$(ls -t build/joist-*-amd64.iso 2>/dev/null | head -n 1)
	[[ -z $iso ]] && return 0
	[[ -n $(find Makefile go.mod joist.toml joist.lock api cluster cmd hypervisor image installer internal iso rootfs system \
		-type f -newer "$iso" ! -name '*_test.go' ! -path '*/testdata/*' -print -quit) ]]
}

scripts/tools.sh
if [[ ${FRESH:-} == 1 || ! -e build/run/disk.qcow2 ]] && [[ -z ${JOIST_ISO:-} ]] && stale; then
	"${MAKE:-make}" --no-print-directory iso
fi
CGO_ENABLED=0 "${GO:-go}" build -trimpath -buildvcs=false -o build/bin/joist-run ./test/run
exec build/bin/joist-run
