#!/bin/bash
# Builds all artefacts twice, in surroundings that differ in everything a build
# must not depend on, and compares them byte for byte:
#
#            this checkout                       the other
#   folder   where it lies                       a copy elsewhere
#   user     who runs this                       root: an unknown one; else the same
#   network  packages from the mirror or cache   none is asked: --pool
#   cache    the person's                        nothing that a build made, but for what compilers
#                                                made: JOIST_REPRODUCE_COLD=1 compiles anew as well
#   CPUs     all                                 one
#   TZ, LANG, umask                              others
#
# The other's folder is kept for the next run; JOIST_REPRODUCE_DIR names it.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$PWD/build/reproduce
other=${JOIST_REPRODUCE_DIR:-/var/tmp/joist-reproduce-$EUID}
uid=64123
epoch=$(git -c safe.directory='*' log -1 --format=%ct 2>/dev/null || date +%s)
goroot=$(go env GOROOT)

mkdir -p "$out" "$other"
[[ -O $other && ! -L $other ]] || { echo "$other belongs to somebody else; name another with JOIST_REPRODUCE_DIR" >&2; exit 1; }
chmod 755 "$other"
rm -rf "$other"/{src,out,key,pool,joist} "$other"/home/.cache/joist/{blocks,programs,results,system,template,modules,unpacked,pool}
mkdir -p "$other"/{src,out,home}

if [[ ${JOIST_REPRODUCE_COLD:-} == 1 ]]; then
	rm -rf "$other/home"
	mkdir "$other/home"
fi

make --no-print-directory joist
openssl genpkey -algorithm ed25519 -out "$other/key" 2>/dev/null
echo "--- here"
SOURCE_DATE_EPOCH=$epoch build/bin/joist build all --sign-key "$other/key" --save-pool "$other/pool" --out "$out"

# What compilers made takes minutes on each CPU, on one twice as many.
if [[ ${JOIST_REPRODUCE_COLD:-} != 1 ]]; then
	caches=${XDG_CACHE_HOME:-$HOME/.cache}
	while read -r from to; do
		if [[ -d $from && ! -d $other/home/.cache/$to ]]; then
			mkdir -p "$other/home/.cache/$(dirname "$to")"
			cp -a --reflink=auto "$from" "$other/home/.cache/$to"
		fi
	done <<-END
		$(go env GOCACHE) go-build
		$caches/joist/zfs joist/zfs
		$caches/joist/cgo joist/cgo
	END
fi

git -c safe.directory='*' ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract --directory="$other/src" --no-same-owner
cp build/bin/joist "$other/joist"
as=()
if ((EUID == 0)); then
	as=(setpriv "--reuid=$uid" "--regid=$uid" --clear-groups --)
	if "${as[@]}" test -x "$goroot/bin/go"; then
		chmod 644 "$other/key" "$other/pool"
		chown -R "$uid:$uid" "$other"/{src,out,home}
	else
		echo "user $uid cannot run Go in $goroot: the same user builds again" >&2
		as=()
	fi
fi
one=()
if command -v taskset >/dev/null; then
	one=(taskset --cpu-list "$(taskset --cpu-list --pid $$ | sed 's/.*: \([0-9]*\).*/\1/')")
fi
echo "--- elsewhere"
(
	cd "$other/src"
	umask 077
	"${as[@]}" env --ignore-environment "PATH=$goroot/bin:/usr/bin:/bin" "HOME=$other/home" TZ=Pacific/Kiritimati LANG=tr_TR.UTF-8 GOMAXPROCS=1 \
		"SOURCE_DATE_EPOCH=$epoch" "${one[@]}" "$other/joist" build all --sign-key "$other/key" --pool "$other/pool" --out "$other/out"
)
echo "--- comparison"
if ! diff "$out/SHA256SUMS" "$other/out/SHA256SUMS" || ! cmp "$out/SHA256SUMS.sig" "$other/out/SHA256SUMS.sig"; then
	echo "the same inputs gave different bytes" >&2
	exit 1
fi
(cd "$other/out" && sha256sum --check SHA256SUMS)
