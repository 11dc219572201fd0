package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

func TestTheFirstProxyWorksAsPrinted(t *testing.T) {
	for _, part := range []string{"curl", "busybox", "haproxy"} {
		parts.Need(t, part)
	}
	tutorial, err := os.ReadFile("../docs/tutorials/first-proxy.md")
	if err != nil {
		t.Fatal(err)
	}
	// The ports of the text may be taken on this machine.
	ports := freePorts(t, 6)
	client, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	text := strings.NewReplacer("8080", ports[2], "8001", ports[3], "8002", ports[4], "8003", ports[5], "make build && ", "").Replace(string(tutorial))
	folder, err := os.MkdirTemp("", "kvd-first-") // short, for the path of a socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Symlink(parts.Build(t), filepath.Join(folder, "bin")); err != nil {
		t.Fatal(err)
	}
	sh := startShell(t, folder, append(os.Environ(),
		"KVD_LISTEN_CLIENT_URLS="+client, "KVD_ADVERTISE_CLIENT_URLS="+client,
		"KVD_LISTEN_PEER_URLS="+peer, "KVD_INITIAL_ADVERTISE_PEER_URLS="+peer, "KVD_INITIAL_CLUSTER=default="+peer,
		"KVCTL_ENDPOINTS="+client, "KVSIDEKICK_ENDPOINTS="+client, "KVCONFD_ENDPOINTS="+client, "KVCONFD_SOCKET="))
	for _, heading := range []string{"A store", "A service", "A configuration that follows it", "What happens every day", "A domain of its own", "The end"} {
		blocks := section(t, text, heading)
		for i, b := range blocks {
			if b.language != "sh" {
				continue
			}
			if i+1 == len(blocks) || blocks[i+1].language != "text" {
				printed := sh.run(b.text)
				if strings.Contains(b.text, "echo the same") && !strings.HasSuffix(printed, "the same\n") {
					log, _ := os.ReadFile(sh.log)
					t.Errorf("%s\nprinted\n%s\nlogs:\n%s", b.text, printed, log)
				}
				continue
			}
			sh.await(b.text, blocks[i+1].text+"\n")
		}
	}
	if left := sh.run("jobs -r; ls"); left != "bin\n" {
		t.Errorf("left are\n%s", left)
	}
}

// await runs a block until it prints what it should: a person takes longer to read on than the block before
// takes to have its effect.
func (s *shell) await(text, want string) {
	s.t.Helper()
	got := s.run(text)
	for deadline := time.Now().Add(20 * time.Second); got != want; got = s.run(text) {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(s.log)
			s.t.Fatalf("%s\nprinted\n%s\nand not\n%s\nlogs:\n%s", text, got, want, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
