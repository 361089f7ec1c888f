#!/bin/bash
# failures.sh LOG…: of each test that failed in these logs of "go test", the last
# lines that it printed. In the log the output of others lies between.
exec awk '
/^=== [A-Z]+ / { now = $3; next }
/^ *--- (PASS|FAIL|SKIP): / {
	now = $2 == "FAIL:" ? $3 : ""
	if (now != "" && !(now in bad)) { bad[now]; names[++n] = now }
	next
}
/^(panic: |fatal error: |FAIL\t)/ { print }
/^(PASS|FAIL|ok )/ { now = ""; next }
now != "" { said[now, ++lines[now]] = substr($0, 1, 300) }
END {
	for (i = 1; i <= n; i++) {
		print "--- FAIL: " names[i]
		for (k = lines[names[i]] - 39; k <= lines[names[i]]; k++) if (k > 0) print said[names[i], k]
	}
}' "$@"
