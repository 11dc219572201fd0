package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

func TestTheGuideToTLSWorksAsPrinted(t *testing.T) {
	parts.Need(t, "curl")
	guide, err := os.ReadFile("../docs/how-to/tls.md")
	if err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 2)
	sh := startShell(t, t.TempDir(), append(os.Environ(), "PATH="+filepath.Clean(parts.Build(t))+":"+os.Getenv("PATH"),
		"KVD_LISTEN_PEER_URLS=http://127.0.0.1:"+ports[1], "KVD_INITIAL_ADVERTISE_PEER_URLS=http://127.0.0.1:"+ports[1]))
	text := strings.ReplaceAll(string(guide), "127.0.0.1:2379", "127.0.0.1:"+ports[0])
	blocks := section(t, "\n## all\n"+strings.ReplaceAll(text, "\n## ", "\n### "), "all")
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
		// A person takes longer to read on than a store takes to start.
		want, got := blocks[i+1].text, strings.TrimRight(sh.run(b.text), "\n")
		for deadline := time.Now().Add(20 * time.Second); got != want; got = strings.TrimRight(sh.run(b.text), "\n") {
			if time.Now().After(deadline) {
				log, _ := os.ReadFile(sh.log)
				t.Fatalf("%s\nprinted\n%s\nand not\n%s\n%s", b.text, got, want, log)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if compared < 6 {
		t.Errorf("only %d answers in the guide: is it still read as it is written?", compared)
	}
}
