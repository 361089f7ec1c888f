#!/bin/bash
# make test: each step with its time, the list at the end, and a non-zero exit
# if one failed. A step's whole output is in build/test-logs/<step>.log.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

logs=build/test-logs
rm -rf "$logs"
mkdir -p "$logs" || exit 1
names=() times=() results=()
begin=$SECONDS

# step NAME MINUTES COMMAND… runs one step, ended after MINUTES.
step() {
	local name=$1 minutes=$2 start=$SECONDS status=0
	shift 2
	echo "==> $name: started (at most $minutes min)"
	timeout --kill-after=30 "${minutes}m" "$@" 2>&1 | tee "$logs/$name.log"
	status=${PIPESTATUS[0]}
	names+=("$name") times+=($((SECONDS - start)))
	case $status in
	0) results+=(ok) ;;
	124 | 137) results+=("timed out") ;;
	*) results+=(FAILED) ;;
	esac
	echo "==> $name: ${results[-1]} after ${times[-1]} s"
	return "$status"
}

skip() {
	names+=("$1") times+=(0) results+=("not run: $2")
}

unit_packages() { go list ./... | grep -v '/test/e2e$'; }

failed=0
step tools 10 scripts/tools.sh || failed=1
step rules 10 make --no-print-directory check || failed=1
step unit 20 bash -c "$(declare -f unit_packages); JOIST_NEED_TOOLS=1 go test -short \$(unit_packages)" || failed=1
step harness 5 env JOIST_NEED_TOOLS=1 go test -count=1 ./test/vm/... || failed=1
if step iso 30 make --no-print-directory iso && step netboot 5 build/bin/joist build netboot --out build && step template 10 build/bin/joist build template debian --out build; then
	step reproduce 20 scripts/reproduce.sh || failed=1
	step e2e-short 60 env JOIST_NEED_TOOLS=1 go test ./test/e2e -run '^TestShort' -count=1 -v -timeout 58m || failed=1
else
	failed=1
	skip e2e-short "there is no image"
fi

if ((failed)); then
	echo
	scripts/failures.sh "$logs"/{unit,harness,e2e-short}.log 2>/dev/null
fi

echo
printf '%-12s %6s  %s\n' step seconds result
for i in "${!names[@]}"; do
	printf '%-12s %6d  %s\n' "${names[i]}" "${times[i]}" "${results[i]}"
done
printf '%-12s %6d  %s\n' total $((SECONDS - begin)) "$( ((failed)) && echo FAILED || echo ok)"
exit "$failed"
