#!/bin/sh
# Everything that etcdctl can do with the v2 API, at the server whose URL is given. Prints commands
# and what they print; ends with an error at the first exit code that is not the one expected.
#
#   etcdctl.sh http://127.0.0.1:2379
set -u
export ETCDCTL_API=2 ETCDCTL_ENDPOINTS="$1"
folder=$(mktemp -d)
watcher=
trap 'rm -rf "$folder"; [ -z "$watcher" ] || kill "$watcher" 2>/dev/null' EXIT

# expect CODE WORD... runs etcdctl with the words.
expect() {
	code=$1
	shift
	echo "\$ etcdctl $*"
	etcdctl "$@" >"$folder/out" 2>"$folder/err" </dev/null
	got=$?
	cat "$folder/out"
	sed 's/^/stderr: /' "$folder/err"
	[ "$got" = "$code" ] || fail "exit code $got, expected $code"
}
fail() {
	echo "FAILED: $*"
	exit 1
}

# index prints the index of the store.
index() { etcdctl -o extended get /index 2>/dev/null | sed -n 's/^Index: //p'; }

# follow LINES WORD... starts a watch and changes keys below /w until it has printed so many lines.
follow() {
	lines=$1
	shift
	echo "\$ etcdctl $*"
	etcdctl "$@" >"$folder/watched" 2>"$folder/err" </dev/null &
	watcher=$!
	change
	tries=0
	until [ "$(wc -l <"$folder/watched")" -ge "$lines" ]; do
		tries=$((tries + 1))
		[ $tries -le 200 ] || { cat "$folder/watched" "$folder/err"; fail "not $lines lines after 20 seconds"; }
		sleep 0.1
	done
	kill -INT "$watcher"
	wait "$watcher"
	got=$?
	watcher=
	cat "$folder/watched"
	sed 's/^/stderr: /' "$folder/err"
	[ "$got" = 0 ] || fail "exit code $got of a watch that was interrupted"
}
change() {
	etcdctl set /w/a 1 && etcdctl set /w/a 2 && etcdctl update /w/a 3 && etcdctl mkdir /w/d && etcdctl mk /w/d/x 4 &&
		etcdctl rm /w/a && etcdctl rm -r /w/d
} >/dev/null || fail "cannot change the watched keys"

echo "== setting and getting"
expect 0 set /index here
expect 0 set /a 1
expect 0 get /a
expect 0 -o extended set /a 2
expect 0 -o json set /a 3
expect 0 -o extended get /a
expect 0 -o json get /a
expect 0 get --quorum /a
expect 0 get --sort /a
expect 4 get /none
expect 4 -o json get /none
expect 0 set "/odd é/<&>" 'a "b" <&> 世'
expect 0 get "/odd é/<&>"
expect 0 -o json get "/odd é/<&>"
expect 1 get
expect 1 set /a
expect 0 set --ttl 500 /t soon
expect 0 set --swap-with-value soon /t later
expect 4 set --swap-with-value soon /t never
expect 0 -o extended get /t
swap=$(etcdctl -o extended get /t | sed -n 's/^Modified-Index: //p')
expect 0 set --swap-with-index "$swap" /t last
expect 4 set --swap-with-index "$swap" /t lost

echo "== creating and updating"
expect 0 mk /m 1
expect 4 mk /m 2
expect 0 mk --ttl 500 /m2 1
expect 0 mk --in-order /queue first
expect 0 mk --in-order /queue second
expect 0 ls --sort /queue
expect 0 update /m 3
expect 0 update --ttl 500 /m 4
expect 4 update /none 1
expect 0 mkdir /d
expect 4 mkdir /d
expect 0 mkdir --ttl 500 /d2
expect 0 setdir /d3
expect 4 setdir /d3
expect 0 setdir --ttl 500 /d4
expect 0 updatedir --ttl 600 /d3
expect 4 updatedir /none
expect 1 get /d
expect 4 set /d 1
expect 4 set /m/below 1

echo "== listing"
expect 0 set /d/b 1
expect 0 set /d/e/f 1
expect 0 set /d/_hidden 1
expect 0 ls --sort
expect 0 ls --sort /d
expect 0 ls --sort -p /d
expect 0 ls --sort --recursive /d
expect 0 ls --sort -r -p /
expect 0 ls --quorum /d/b
expect 0 ls /d2
expect 4 ls /none

echo "== removing"
expect 0 rm /d/b
expect 4 rm /d/b
expect 4 rm /d
expect 4 rmdir /d
expect 0 rmdir /d2
expect 4 rmdir /none
expect 4 rm --with-value no /a
expect 0 rm --with-value 3 /a
expect 4 rm --with-index 1 /m
expect 0 rm --with-index "$(etcdctl -o extended get /m | sed -n 's/^Modified-Index: //p')" /m
expect 0 -o extended rm /t
expect 0 rm --dir /d3
expect 0 rm --recursive /d
expect 0 -o json rm /index

echo "== time to live"
expect 0 set /index here
expect 0 set --ttl 1 /brief 1
expect 0 watch /brief
expect 4 get /brief

echo "== watching"
now=$(index)
expect 0 set /w/a 0
expect 0 watch --after-index "$now" /w/a
expect 0 -o extended watch --after-index "$now" -r /w
expect 0 -o json watch --after-index "$now" -r /w
follow 10 watch --forever --recursive --after-index "$(index)" /w
follow 4 watch -f --after-index "$(index)" /w/a
# shellcheck disable=SC2016 # expanded when a key changes
follow 5 exec-watch --recursive --after-index "$(index)" sh -c 'echo "$ETCD_WATCH_ACTION $ETCD_WATCH_KEY=$ETCD_WATCH_VALUE"' /w
expect 1 watch
expect 1 exec-watch

echo "== the cluster"
expect 0 cluster-health
expect 0 member list
expect 1 member remove 1234
expect 0 --version
expect 3 nothing-known

echo "== users and roles"
expect 0 user list
expect 0 user add root:secret
expect 0 user add ann:pass
expect 0 user add ann:pass
expect 0 user list
expect 0 role list
expect 0 role add reader
expect 1 role add reader
expect 0 role grant --path '/open/*' --read reader
expect 0 role grant --path '/tasks/*' --readwrite reader
expect 0 role get reader
expect 0 role revoke --path '/open/*' --read reader
expect 0 role grant --path '/open/*' --read reader
expect 0 role list
expect 0 user grant --roles reader ann
expect 0 user get ann
expect 0 user get root
expect 1 user get none
expect 0 set /open/a 1
expect 0 auth enable
expect 1 auth enable
expect 0 get /open/a
expect 0 -u root:secret role revoke --path '/*' --readwrite guest
expect 0 -u root:secret role get guest
expect 4 get /open/a
expect 0 -u ann:pass get /open/a
expect 4 -u ann:wrong get /open/a
expect 4 -u none:pass get /open/a
expect 4 -u ann:pass set /open/a 2
expect 0 -u ann:pass set /tasks/a 2
expect 0 -u ann:pass ls /tasks/
expect 4 -u ann:pass get /elsewhere
expect 1 -u ann:pass user list
expect 1 user add eve:pass
expect 0 -u root:secret set /elsewhere 1
expect 0 -u root:secret user revoke --roles reader ann
expect 4 -u ann:pass get /open/a
expect 0 -u root:secret user remove ann
expect 1 -u root:secret user remove ann
expect 0 -u root:secret role remove reader
expect 1 -u root:secret role remove root
expect 1 -u root:secret user remove root
expect 1 auth disable
expect 0 -u root:secret auth disable
expect 0 set /open/a 3

echo "== done"
