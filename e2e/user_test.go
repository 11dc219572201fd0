package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
)

func TestKvconfdAsAUserOverTLSSaysWhatIsWrongKeepsItsFilesAndComesBack(t *testing.T) {
	folder, err := os.MkdirTemp("", "kvd-user-") // which another user may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	as := ""
	if os.Getuid() == 0 {
		parts.Need(t, "setpriv")
		as = "setpriv --reuid nobody --regid nogroup --clear-groups "
	}
	ports := freePorts(t, 2)
	url := "https://127.0.0.1:" + ports[0]
	sh := startShell(t, folder, append(os.Environ(), "PATH="+filepath.Clean(parts.Build(t))+":"+os.Getenv("PATH"),
		"KVD_LISTEN_PEER_URLS=http://127.0.0.1:"+ports[1], "KVD_INITIAL_ADVERTISE_PEER_URLS=http://127.0.0.1:"+ports[1],
		"KVCTL_ENDPOINTS="+url, "KVCTL_CA_FILE=certs/ca.crt"))
	sh.run(strings.NewReplacer("URL", url, "AS ", as).Replace(`
kvctl cert init
kvctl cert init --out other
kvctl cert issue server n1 --host 127.0.0.1
store() {
  kvd --data-dir kvd --listen-client-urls URL --cert-file certs/server-n1.crt --key-file certs/server-n1.key &
  store=$!
}
restart() { kill $store; wait $store; store; }
agent() {
  AS ./kvconfd --confdir conf --watch --interval 1h --endpoints URL --ca-file own/ca.crt --username edge1 --password-file own/password \
    --state-dir own --socket own/kvconfd.sock --host edge1 --log-format text 2>> kvconfd.log &
  agent=$!
}
root() { kvctl --username root:rootpass "$@"; }
told() { grep -q "$1" kvconfd.log && kvconfd status --socket own/kvconfd.sock | grep -q "$1" && echo told; }
well() { kvconfd status --socket own/kvconfd.sock > status && echo well; }
store
`))
	sh.eventually("kvctl set /config/color green", "green")
	sh.run(`
kvctl set /services/web/a 10.0.0.1
echo rootpass | kvctl user add root
kvctl auth enable
root role revoke --path '/*' --readwrite guest
root role add kvconfd
for path in /services '/services/*' /config '/config/*' '/_agents-sync*' '/_agents/*'; do root role grant --path "$path" --read kvconfd; done
root role grant --path '/_agents/*' --write kvconfd
echo herring | root user add edge1
root user grant --roles kvconfd edge1
mkdir -p conf/conf.d conf/templates own
cp $(command -v kvconfd) .
for name in color web; do
  printf '[template]\nsrc = "%s.tmpl"\ndest = "own/%s.conf"\n' $name $name > conf/conf.d/$name.toml
done
echo 'keys = ["/config"]' >> conf/conf.d/color.toml
echo 'keys = ["/services"]' >> conf/conf.d/web.toml
printf '{{getv "/config/color"}}' > conf/templates/color.tmpl
printf '{{range gets "/services/web/*"}}{{.Value}}{{end}}' > conf/templates/web.tmpl
cp other/ca.crt own/ca.crt
echo wrong > own/password
` + map[bool]string{true: "chown -R nobody own"}[as != ""] + `
agent
`)
	const both = "echo $(cat own/color.conf) $(cat own/web.conf)"
	sh.eventually("told 'no authority that is trusted here'", "told")
	sh.run("cp certs/ca.crt own/ca.crt")
	sh.eventually("told 'user edge1 is not known, has another password'", "told")
	sh.run("echo herring > own/password")
	sh.eventually(both, "green 10.0.0.1")
	sh.eventually("well", "well")
	sh.eventually("root converged | tail -n 1 | cut -d' ' -f 1-4", "1 of 1 host")

	// In the middle: an authority that is not the store's, and another password.
	sh.run(": > kvconfd.log; cp other/ca.crt own/ca.crt; restart")
	sh.eventually("told 'no authority that is trusted here'", "told")
	sh.eventually("root set /config/color blue", "blue")
	sh.eventually(both, "green 10.0.0.1")
	sh.run("cp certs/ca.crt own/ca.crt")
	sh.eventually(both, "blue 10.0.0.1")
	sh.eventually("well", "well")
	sh.run(": > kvconfd.log; echo mackerel | root user passwd edge1; root set /config/color red")
	sh.eventually("told 'not permitted (user edge1 is not known, has another password'", "told")
	sh.eventually(both, "blue 10.0.0.1")
	sh.run("echo mackerel > own/password")
	sh.eventually(both, "red 10.0.0.1")
	sh.eventually("well", "well")
	sh.eventually("grep -c 'reading the store again' kvconfd.log", "1")

	// A right that is taken away keeps one file as it is, and no other.
	sh.run(": > kvconfd.log; root role revoke --path '/config/*' --read kvconfd; root set /config/color black; root set /services/web/a 10.0.0.2")
	sh.eventually("told 'get /config: not permitted'", "told")
	sh.eventually(both, "red 10.0.0.2")
	sh.run("root role grant --path '/config/*' --read kvconfd; kill $agent; wait $agent; agent")
	sh.eventually(both, "black 10.0.0.2")
	sh.eventually("well", "well")
}
