#!/bin/sh
# Installs what the tests use and this machine lacks, when run by root on Debian. Elsewhere, or
# when the packages cannot be fetched, it names what is missing and succeeds: the tests that need
# it will skip, and say so.
#
#   install-parts.sh            every part
#   install-parts.sh haproxy    only the parts named
set -u

# part, the program that shows it is there, the packages that bring it
parts='
cc           cc               gcc libc6-dev
curl         curl             curl
haproxy      haproxy          haproxy
nginx        nginx            nginx
etcd         etcd             etcd-server
etcdctl      etcdctl          etcd-client
docker       dockerd          docker.io
podman       podman           podman
iptables     iptables         iptables
ip           ip               iproute2
busybox      busybox          busybox-static
debootstrap  debootstrap      debootstrap
systemd      systemd-analyze  systemd
strace       strace           strace
wrk          wrk              wrk
node         node             nodejs
npm          npm              npm
dig          dig              bind9-dnsutils
caddy        caddy            caddy
varnish      varnishd         varnish
dnsmasq      dnsmasq          dnsmasq-base
prometheus   promtool         prometheus
keepalived   keepalived       keepalived
python3-etcd etcd.py          python3-etcd
'
# Daemons that their packages would start and enable at boot. The tests start their own.
daemons='haproxy nginx etcd docker caddy varnish prometheus keepalived'

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
wanted=${*:-all}

# present tells whether a program is there, for busybox whether it is the static one, which runs in
# a container that holds nothing else, and for etcd.py whether Debian's Python can import it.
present() {
	[ "$1" != etcd.py ] || { /usr/bin/python3 -c 'import etcd' 2>/dev/null; return; }
	command -v "$1" >/dev/null 2>&1 || return 1
	[ "$1" != busybox ] || ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

# lacking prints the part names, or with "packages" the packages, that are not there yet.
lacking() {
	echo "$parts" | while read -r part program packages; do
		[ -n "$part" ] || continue
		case " $wanted " in *" all "* | *" $part "*) ;; *) continue ;; esac
		present "$program" && continue
		if [ "${1:-}" = packages ]; then echo "$packages"; else echo "$part"; fi
	done | tr '\n' ' '
}

# modules installs the npm packages that tests use, in the versions that e2e/clients/node fixes, into
# the user's cache. It needs no rights.
modules() {
	case " $wanted " in *" all "* | *" node-etcd "*) ;; *) return ;; esac
	source=$(dirname "$0")/clients/node
	target=${XDG_CACHE_HOME:-$HOME/.cache}/kvd-test-node
	if [ -d "$target/node_modules" ] && cmp -s "$source/package-lock.json" "$target/package-lock.json"; then
		return
	fi
	command -v npm >/dev/null || { echo "parts missing: node-etcd: no npm"; return; }
	mkdir -p "$target" && cp "$source/package.json" "$target" && rm -rf "$target/node_modules" &&
		cp "$source/package-lock.json" "$target" &&
		(cd "$target" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) ||
		{ rm -rf "$target"; echo "parts missing: node-etcd: npm could not install it"; }
}

missing=$(lacking)
[ -n "$missing" ] || { modules; exit 0; }

why=
if [ "$(id -u)" != 0 ]; then
	why='not root'
elif ! [ -e /etc/debian_version ] || ! command -v apt-get >/dev/null; then
	why='not Debian'
fi
if [ -n "$why" ]; then
	echo "parts missing and not installed ($why): $missing"
	modules
	exit 0
fi

packages=$(lacking packages)
echo "installing: $packages"
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
placed=
if ! [ -e "$policy" ]; then # 101: a package must not start its daemon now
	placed=yes
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
cleanup() {
	[ -z "$placed" ] || rm -f "$policy"
	rm -f "$log"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fresh=$(for daemon in $daemons; do case " $missing " in *" $daemon "*) echo "$daemon" ;; esac done)
install() {
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages >>"$log" 2>&1
}
install || {
	apt-get update -q >>"$log" 2>&1
	install
} || tail -n 5 "$log"

if [ -d /run/systemd/system ]; then
	for daemon in $fresh; do
		systemctl --quiet disable "$daemon" 2>/dev/null
	done
fi
missing=$(lacking)
[ -z "$missing" ] || echo "parts missing, apt-get could not install them: $missing"
modules
exit 0
