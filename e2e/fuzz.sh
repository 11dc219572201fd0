#!/bin/sh
# Runs the fuzz targets of the module, one after the other, each for FUZZTIME (default 10m) with
# one worker, and prints a summary. Arguments choose targets by name; without any, all run. With
# KEEP=n the n shortest of the inputs that each target has found worth keeping are copied to its
# testdata/fuzz, where the ordinary tests run them from then on.
#
# A finding is in testdata/fuzz of its package, and `go test -run FuzzName/file` replays it.
set -eu
cd "$(dirname "$0")/.."
time=${FUZZTIME:-10m}
go=${GO:-go}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

targets() { # package and name of each target
	grep -rl --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do
		sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(f \*testing\.F).*/\1/p' "$file" | while read -r name; do
			echo "./$(dirname "${file#./}") $name"
		done
	done
}

chosen() { # whether the name is one of the arguments, if there are any
	name=$1
	shift
	[ $# -eq 0 ] && return 0
	for want; do [ "$want" = "$name" ] && return 0; done
	return 1
}

keep() { # package, name: the shortest inputs found so far, of those that are not there yet
	found=$("$go" env GOCACHE)/fuzz/$("$go" list "$1")/$2
	[ -d "$found" ] || return 0
	mkdir -p "$1/testdata/fuzz/$2"
	find "$found" -type f -size -2k -printf '%s %p\n' | sort -n | head -n "$KEEP" | while read -r _ file; do
		cp -n "$file" "$1/testdata/fuzz/$2/"
	done
}

targets > "$folder/targets"
: > "$folder/summary"
failed=0
while read -r package name <&3; do
	chosen "$name" "$@" || continue
	# An input that is only interesting is not worth a minute of shortening, which is the default.
	if "$go" test "$package" -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 2s -parallel 1 > "$folder/log" 2>&1; then
		verdict=passed
	elif grep -q '^ *context deadline exceeded$' "$folder/log" && ! grep -q 'Failing input written' "$folder/log"; then
		verdict=passed # the time was over while an input was being shortened: go test calls that a failure
	else
		verdict=FAILED
		failed=1
		cat "$folder/log"
	fi
	execs=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$folder/log" | tail -n 1)
	printf '%-7s %12s executions  %s %s\n' "$verdict" "${execs:-no}" "$package" "$name" | tee -a "$folder/summary"
	[ -z "${KEEP:-}" ] || keep "$package" "$name"
done 3< "$folder/targets"
echo
echo "$(wc -l < "$folder/summary") targets, $time each:"
cat "$folder/summary"
exit "$failed"
