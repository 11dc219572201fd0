package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// workThrough types in what a guide says, whose addresses of this machine are moved to free ports,
// and compares what is printed.
func workThrough(t *testing.T, path string, environment []string, ports ...string) {
	t.Helper()
	parts.Need(t, "curl")
	guide, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sh := startShell(t, t.TempDir(), append(append(os.Environ(), "PATH="+filepath.Clean(parts.Build(t))+":"+os.Getenv("PATH")), environment...))
	var moved []string
	for i, free := range freePorts(t, len(ports)) {
		moved = append(moved, ports[i], free)
	}
	text := strings.NewReplacer(moved...).Replace(strings.ReplaceAll(string(guide), "\n## ", "\n### "))
	blocks := section(t, "\n## all\n"+text, "all")
	compared := 0
	for i, b := range blocks {
		if b.language != "sh" {
			continue
		}
		if i+1 == len(blocks) || blocks[i+1].language != "text" {
			sh.run(b.text)
			continue
		}
		compared++
		sh.eventually(b.text, blocks[i+1].text) // a person takes longer to read on than a store takes to start
	}
	if compared < 4 {
		t.Errorf("only %d answers in the guide: is it still read as it is written?", compared)
	}
}

func TestTheGuideToTLSWorksAsPrinted(t *testing.T) {
	peer := "http://127.0.0.1:" + freePorts(t, 1)[0]
	workThrough(t, "../docs/how-to/tls.md", []string{"KVD_LISTEN_PEER_URLS=" + peer, "KVD_INITIAL_ADVERTISE_PEER_URLS=" + peer}, "2379")
}

func TestTheGuideToAFirstClusterWorksAsPrinted(t *testing.T) {
	// Longer ones first: 22379 ends with 2379.
	workThrough(t, "../docs/how-to/first-cluster.md", nil, "22379", "22380", "32379", "32380", "2379", "2380")
}

func TestTheGuideToReplacingAMemberWorksAsPrinted(t *testing.T) {
	workThrough(t, "../docs/how-to/replace-a-member.md", nil, "42379", "42380", "22379", "22380", "32379", "32380", "2379", "2380")
}

func TestTheGuideToARollingUpgradeWorksAsPrinted(t *testing.T) {
	workThrough(t, "../docs/how-to/rolling-upgrade.md", nil, "22379", "22380", "32379", "32380", "2379", "2380")
}

// eventually runs a block until it prints what is wanted.
func (s *shell) eventually(text, want string) {
	s.t.Helper()
	got := strings.TrimRight(s.run(text), "\n")
	for deadline := time.Now().Add(30 * time.Second); got != want; got = strings.TrimRight(s.run(text), "\n") {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(s.log)
			s.t.Fatalf("%s\nprinted\n%s\nand not\n%s\n%s", text, got, want, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestLongRunningProgramsGoOnOverTLSWhenTheirCertificateIsExchanged(t *testing.T) {
	parts.Need(t, "busybox")
	ports := freePorts(t, 3)
	url := "https://127.0.0.1:" + ports[0]
	environment := append(os.Environ(), "PATH="+filepath.Clean(parts.Build(t))+":"+os.Getenv("PATH"),
		"KVD_LISTEN_PEER_URLS=http://127.0.0.1:"+ports[1], "KVD_INITIAL_ADVERTISE_PEER_URLS=http://127.0.0.1:"+ports[1])
	for _, program := range []string{"KVCTL", "KVSIDEKICK", "KVCONFD"} {
		name := strings.ToLower(strings.TrimPrefix(program, "KV"))
		environment = append(environment, program+"_ENDPOINTS="+url, program+"_CA_FILE=certs/ca.crt",
			program+"_CERT_FILE=certs/client-"+name+".crt", program+"_KEY_FILE=certs/client-"+name+".key")
	}
	sh := startShell(t, t.TempDir(), environment)
	sh.run(`
kvctl cert init
kvctl cert issue server n1 --host 127.0.0.1
for name in ctl sidekick confd; do kvctl cert issue client $name; done
mkdir -p conf/conf.d conf/templates
cat > conf/conf.d/web.toml <<'END'
[template]
src = "web.tmpl"
dest = "web.conf"
keys = ["/"]
END
echo '{{range gets "/services/*/*"}}{{base .Key}} {{end}}{{if exists "/mark"}}{{getv "/mark"}}{{end}}' > conf/templates/web.tmpl
kvd --data-dir kvd --listen-client-urls ` + url + ` --cert-file certs/server-n1.crt --key-file certs/server-n1.key \
  --trusted-ca-file certs/ca.crt --client-crl-file certs/ca.crl &
kvsidekick --service web --instance web-1 --address 127.0.0.1 --port ` + ports[2] + ` --ttl 5s -- busybox httpd -f -p ` + ports[2] + ` &
kvconfd --confdir conf --watch --interval 1h &
`)
	sh.eventually("kvctl set /mark one", "one")
	sh.eventually("cat web.conf", "web-1 one")
	// Who has the old certificates is cut off, and comes back with the new ones.
	sh.run("for name in ctl sidekick confd; do kvctl cert revoke client-$name; done")
	sh.eventually("kvctl get /mark 2>&1 | grep -c 'the other side refuses the certificate'", "1")
	sh.run("for name in ctl sidekick confd; do kvctl cert renew client-$name; done")
	sh.eventually("kvctl set /mark two", "two")
	sh.eventually("cat web.conf", "web-1 two")
	sh.eventually("kvctl ls --recursive /services | grep web-1", "/services/web/web-1")
	sh.eventually("kvctl -o extended get /services/web/web-1 | grep -c 'TTL: [45]'", "1") // kept alive
}
