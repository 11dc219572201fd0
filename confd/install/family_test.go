package install_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/install"
)

// family is a command that never ends, and whose children have groups and sessions of their own. Each of them writes
// its number into the file of its name.
func family(dir string) install.Command {
	const child = `sh -c 'trap "" TERM; echo $$ >$0.new; mv $0.new $0; while test -d %; do sleep 0.05; done' `
	lasting := strings.ReplaceAll(child, "%", dir)
	return install.Command{Shell: "cd " + dir + "; setsid " + lasting + "daemon & timeout 60 " + lasting + "grouped; true"}
}

func pidIn(t *testing.T, path string) int {
	t.Helper()
	for range 1000 { // 10 s
		if text, err := os.ReadFile(path); err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("there is no %s", path)
	return 0
}

// ends reports whether a process ends within a second.
func ends(pid int) bool {
	for range 100 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

func TestACommandThatTakesTooLongIsEndedWithThoseWhoHaveAGroupOfTheirOwnAndNotWithDaemons(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, f install.File, c install.Command){
		"by its own kvconfd": func(t *testing.T, f install.File, c install.Command) {
			c.Timeout = time.Second
			if _, err := f.Tell(t.Context(), c); err == nil {
				t.Error("it has ended well")
			}
		},
		"by the next one": func(t *testing.T, f install.File, c install.Command) {
			dir := filepath.Dir(f.Path)
			c.Shell = "touch " + dir + "/begun; " + c.Shell
			killed(t, f, c, true)
			pidIn(t, filepath.Join(dir, "grouped"))
			pidIn(t, filepath.Join(dir, "daemon"))
			f.Teller().Await(t.Context(), 50*time.Millisecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _, _ := indebted(t)
			dir := filepath.Dir(f.Path)
			end(t, f, family(dir))
			if pid := pidIn(t, filepath.Join(dir, "grouped")); !ends(pid) {
				t.Errorf("a child with a group of its own (%d) is there", pid)
				syscall.Kill(pid, syscall.SIGKILL)
			}
			daemon := pidIn(t, filepath.Join(dir, "daemon"))
			if ends(daemon) {
				t.Error("a daemon was ended too")
			}
			syscall.Kill(daemon, syscall.SIGKILL)
		})
	}
}
