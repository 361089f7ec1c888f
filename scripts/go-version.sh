#!/bin/sh
# Says in one sentence what to do when Go is missing or too old to fetch the
# toolchain that go.mod names (Go 1.21 brought that).
cure="install Go 1.21 or newer (Debian 13: apt install golang-go; elsewhere: https://go.dev/dl/) and run make again."
# From /, because an old Go fails on this go.mod before it tells its version.
version=$(cd / && "${1:-go}" version 2>/dev/null) || { echo "Joist is built with Go, which is not here: $cure" >&2; exit 1; }
version=${version#go version go}
major=${version%%.*}
minor=${version#*.}
minor=${minor%%[!0-9]*}
case $major in
'' | *[!0-9]*) exit 0 ;; # a development version
esac
if [ "$major" -lt 1 ] || { [ "$major" -eq 1 ] && [ "${minor:-0}" -lt 21 ]; }; then
	echo "Go $major.$minor is too old for Joist: $cure" >&2
	exit 1
fi
