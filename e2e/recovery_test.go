package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// stopAndStart are what a page calls stop-kvd and start-kvd: for the member whose data is in ./data.
const stopAndStart = `
start-kvd() {
  kvd --data-dir data --listen-client-urls $KVCTL_ENDPOINTS --advertise-client-urls $KVCTL_ENDPOINTS --listen-peer-urls $PEER --initial-advertise-peer-urls $PEER &
  kvd_pid=$!
  for try in $(seq 400); do kvctl ls / >/dev/null 2>&1 && return; sleep 0.05; done
}
stop-kvd() { kill $kvd_pid; wait $kvd_pid; }
start-kvd
`

// playGuide types a page into a shell and compares what it prints; first is what comes before. Then come pairs
// of a command and what it has to print at the end.
func playGuide(t *testing.T, page, first string, compared int, after ...string) {
	t.Helper()
	text, err := os.ReadFile("../docs/how-to/" + page)
	if err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 2)
	sh := startShell(t, t.TempDir(), append(os.Environ(), "KVCTL_ENDPOINTS=http://127.0.0.1:"+ports[0], "PEER=http://127.0.0.1:"+ports[1],
		"PATH="+filepath.Clean(parts.Build(t))+":"+os.Getenv("PATH")))
	sh.run(stopAndStart + first)
	blocks := section(t, "\n## all\n"+strings.ReplaceAll(string(text), "\n## ", "\n### "), "all")
	for i, b := range blocks {
		if b.language != "sh" {
			continue
		}
		printed := strings.TrimSpace(sh.run(b.text))
		if i+1 < len(blocks) && blocks[i+1].language == "text" {
			compared--
			if printed != blocks[i+1].text {
				log, _ := os.ReadFile(sh.log)
				t.Errorf("%s\nprinted\n%s\nand not\n%s\n%s", b.text, printed, blocks[i+1].text, log)
			}
		}
	}
	for pair := range slices.Chunk(after, 2) {
		if printed := strings.TrimSpace(sh.run(pair[0])); printed != pair[1] {
			log, _ := os.ReadFile(sh.log)
			t.Errorf("at the end %s printed\n%s\nand not\n%s\n%s", pair[0], printed, pair[1], log)
		}
	}
	if compared > 0 {
		t.Errorf("%d answers in %s are missing: is it still read as it is written?", compared, page)
	}
	fmt.Fprintln(sh.input, "stop-kvd")
}

func TestTheGuideToBackupAndRestoreWorksAsPrinted(t *testing.T) {
	playGuide(t, "backup-and-restore.md", "", 5)
}

func TestTheGuideToALostQuorumWorksAsPrinted(t *testing.T) {
	playGuide(t, "lost-quorum.md", "kvctl set /important here", 4)
}

func TestTheGuideFromEtcdWorksAsPrinted(t *testing.T) {
	etcd := etcdtest.Start(t)
	playGuide(t, "move-from-etcd.md", "export ETCD="+etcd.URL+`
kvctl --endpoints $ETCD set /config/color blue
printf 'two\nlines\n' | kvctl --endpoints $ETCD set /config/text
kvctl --endpoints $ETCD set /config/empty ''
kvctl --endpoints $ETCD set -- '/config/with spaces' '-12 and "quotes"'
kvctl --endpoints $ETCD mkdir /config/nothing
kvctl --endpoints $ETCD set --ttl 600 /services/web/a 10.0.0.1:80
checked() {
  for key in /config/color /config/text /config/empty '/config/with spaces'; do
    kvctl --endpoints $ETCD get "$key" | cmp - <(kvctl get "$key") && echo same
  done
}
`, 3, "checked", "same\nsame\nsame\nsame")
}
