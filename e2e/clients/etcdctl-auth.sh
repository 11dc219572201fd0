#!/bin/sh
# Users, roles and access control with etcdctl, at the server whose URL is given, which has none yet.
# Prints commands and what they print; ends with an error at the first exit code that is not the one
# expected.
#
#   etcdctl-auth.sh http://127.0.0.1:2379
set -u
export ETCDCTL_API=2 ETCDCTL_ENDPOINTS="$1"

# expect CODE WORD... runs etcdctl with the words.
expect() {
	code=$1
	shift
	echo "\$ etcdctl $*"
	output=$(etcdctl "$@" 2>&1 </dev/null)
	got=$?
	printf '%s\n' "$output" | sed 's/ \[[0-9]*\]$//'
	[ "$got" = "$code" ] || { echo "FAILED: exit code $got, expected $code"; exit 1; }
}
root() { code=$1; shift; expect "$code" -u root:secret "$@"; }
ann() { code=$1; shift; expect "$code" -u ann:hers "$@"; }

expect 0 set /web/one 1
expect 0 set /other 1
expect 0 user list
expect 0 role list
expect 1 auth enable
expect 0 user add root:secret
expect 0 role add web
expect 1 role add web
expect 0 role grant --path '/web/*' --readwrite web
expect 1 role grant --path '/web/*' --read web
expect 0 role grant --path /config --read web
expect 0 role get web
expect 0 user add ann:hers
expect 0 user grant --roles web ann
expect 1 user grant --roles web ann
expect 0 user get ann
expect 0 user get root
expect 0 user list
expect 0 role list
expect 0 auth enable
expect 1 auth enable
root 1 auth enable

expect 0 get /web/one
expect 1 user list
root 0 role get guest
root 0 role revoke --path '/*' --rw guest
expect 4 get /web/one
expect 4 set /web/one 2
ann 0 get /web/one
ann 0 set /web/two 2
ann 0 ls --sort /web/
ann 0 rm /web/two
ann 4 get /other
ann 4 set /config 1
ann 4 ls --recursive /
ann 1 user list
expect 4 -u ann:wrong get /web/one
root 0 get /other
root 0 set /config 1
ann 0 get /config

root 0 user revoke --roles web ann
ann 4 get /web/one
root 0 user grant --roles root ann
ann 0 get /other
ann 0 user list
root 1 user remove root
root 0 user remove ann
root 0 role remove web
root 1 role remove web
root 1 role remove root
root 0 auth disable
expect 1 auth disable
expect 0 user remove root
expect 0 get /web/one
