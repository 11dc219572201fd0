package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
)

// block is a fenced part of a Markdown text.
type block struct{ language, text string }

// section returns the blocks below a heading of level two.
func section(t *testing.T, markdown, heading string) (blocks []block) {
	t.Helper()
	_, rest, found := strings.Cut(markdown, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("no section %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	for i, part := range strings.Split(rest, "\n```") {
		if i%2 == 1 {
			language, text, _ := strings.Cut(part, "\n")
			blocks = append(blocks, block{language, text})
		}
	}
	return blocks
}

// shell is one bash that runs block after block, so that jobs and variables last.
type shell struct {
	t     *testing.T
	input io.Writer
	lines *bufio.Scanner
	log   string // what its commands print on standard error
}

func startShell(t *testing.T, folder string, env []string) *shell {
	t.Helper()
	parts.Need(t, "bash")
	cmd := exec.Command("bash")
	cmd.Dir, cmd.Env = folder, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &shell{t: t, input: input, lines: bufio.NewScanner(output), log: filepath.Join(t.TempDir(), "stderr")}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// In the order of a person who leaves: the jobs, last first, then the shell.
		fmt.Fprintln(input, `for job in $(jobs -p | tac); do kill $job; wait $job; done; exit`)
		cmd.Wait()
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	})
	return s
}

// run executes a block and returns what it prints on standard output.
func (s *shell) run(text string) string {
	s.t.Helper()
	const end = "--- end of block ---"
	fmt.Fprintf(s.input, "%s\necho '%s'\n", text, end)
	var printed strings.Builder
	for s.lines.Scan() {
		if s.lines.Text() == end {
			return printed.String()
		}
		printed.WriteString(s.lines.Text() + "\n")
	}
	log, _ := os.ReadFile(s.log)
	s.t.Fatalf("the shell has ended: %v\n%s", s.lines.Err(), log)
	return ""
}

func TestTheReadmesQuickStartWorksAsPrinted(t *testing.T) {
	parts.Need(t, "curl")
	parts.Need(t, "busybox")
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	// The ports of the text may be taken on this machine.
	ports := freePorts(t, 3)
	client, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	text := strings.NewReplacer("http://127.0.0.1:2379", client, "8000", ports[2], "make build && ", "").Replace(string(readme))
	folder := t.TempDir()
	if err := os.Symlink(parts.Build(t), filepath.Join(folder, "bin")); err != nil {
		t.Fatal(err)
	}
	sh := startShell(t, folder, append(os.Environ(),
		"KVD_LISTEN_CLIENT_URLS="+client, "KVD_ADVERTISE_CLIENT_URLS="+client,
		"KVD_LISTEN_PEER_URLS="+peer, "KVD_INITIAL_ADVERTISE_PEER_URLS="+peer, "KVD_INITIAL_CLUSTER=default="+peer,
		"KVCTL_ENDPOINTS="+client, "KVSIDEKICK_ENDPOINTS="+client, "KVCONFD_ENDPOINTS="+client))

	blocks := section(t, text, "Quick start")
	if len(blocks) < 8 {
		t.Fatalf("only %d blocks", len(blocks))
	}
	for i, b := range blocks {
		if b.language != "sh" {
			continue
		}
		if i+1 == len(blocks) || blocks[i+1].language != "text" {
			sh.run(b.text)
			continue
		}
		sh.await(b.text, blocks[i+1].text+"\n")
	}
}

// freePorts returns n loopback ports that nobody listens on now.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() // all at the end, so that no port is found twice
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}
