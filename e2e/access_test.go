package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
)

func TestTheGuideToAccessControlWorksAsPrinted(t *testing.T) {
	guide, err := os.ReadFile("../docs/how-to/access-control.md")
	if err != nil {
		t.Fatal(err)
	}
	sh := startShell(t, t.TempDir(), append(os.Environ(),
		"KVCTL_ENDPOINTS="+startKVD(t), "PATH="+filepath.Clean(parts.Build(t))+":"+os.Getenv("PATH")))
	sh.run("shopt -s expand_aliases") // as in a terminal
	blocks := section(t, "\n## all\n"+string(guide), "all")
	compared := 0
	for i, b := range blocks {
		if b.language != "sh" {
			continue
		}
		printed := strings.TrimSpace(sh.run(b.text))
		if i+1 < len(blocks) && blocks[i+1].language == "text" {
			compared++
			if printed != blocks[i+1].text {
				log, _ := os.ReadFile(sh.log)
				t.Errorf("%s\nprinted\n%s\nand not\n%s\n%s", b.text, printed, blocks[i+1].text, log)
			}
		}
	}
	if compared < 4 {
		t.Errorf("only %d answers in the guide: is it still read as it is written?", compared)
	}
}
