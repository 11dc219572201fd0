package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/parts"
)

// TestAMemberWithAFullDiskHoldsUpNobody: the disk of one of three members is filled to the last byte by
// somebody else. Its clients are told, the doctor names it, the others go on; when there is room again,
// it has what they have.
func TestAMemberWithAFullDiskHoldsUpNobody(t *testing.T) {
	parts.Need(t, "root")
	t.Parallel()
	kvctl := filepath.Join(parts.Build(t), "kvctl")
	c, err := cluster.New(cluster.Config{Program: cluster.KVD(filepath.Join(parts.Build(t), "kvd")), Members: 3, Dir: t.TempDir(), Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	victim := c.Members()[2]
	if err := os.Mkdir(victim.Data(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", victim.Data(), "tmpfs", 0, "size=160m"); err != nil {
		t.Skipf("part missing: mount: %v", err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := syscall.Unmount(victim.Data(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Transfer(t.Context(), c.Members()[0]); err != nil {
		t.Fatal(err)
	}
	caller := cluster.NewCaller(2)
	t.Cleanup(caller.Close)
	put := func(m *cluster.Member, key, value string) int {
		t.Helper()
		reply, err := caller.Keys(t.Context(), http.MethodPut, m.ClientURL, key, url.Values{"value": {value}})
		if err != nil {
			t.Fatalf("write through %s: %v", m.Name, err)
		}
		return reply.Status
	}
	large := strings.Repeat("x", 1<<20)
	for i := range 3 {
		if status := put(victim, fmt.Sprint("/k/", i), large); status != http.StatusCreated {
			t.Fatalf("with room: %d", status)
		}
	}

	ballast := filepath.Join(victim.Data(), "ballast")
	fill(t, ballast)
	await(t, "its clients are refused", func() bool { return put(victim, "/k/victim", "x") == http.StatusForbidden })
	if out := run(kvctl, "--endpoints", c.Members()[0].ClientURL, "doctor"); !strings.Contains(out, "trouble: m3: it has raised the alarm NOSPACE") {
		t.Errorf("the doctor says\n%s", out)
	}
	const rounds = 200 // more than fits into the log that the victim has
	for i := range rounds {
		if status := put(c.Members()[i%2], "/k/0", large); status != http.StatusOK {
			t.Fatalf("the others, after %d MiB: %d", i, status)
		}
	}
	if code := victim.Exit(t.Context()); code != 3 {
		t.Errorf("without any room the victim ended with code %d\n%s", code, victim.Log())
	}
	if err := victim.Stop(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if status := put(c.Members()[0], "/k/1", "last"); status != http.StatusOK {
		t.Fatal(status)
	}
	if err := victim.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := run(kvctl, "--endpoints", victim.ClientURL, "get", "/k/1", "--quorum"); out != "last\n" {
		t.Errorf("the victim has %q", out)
	}
}

// fill writes a file until there is no room for another byte.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for chunk := make([]byte, 64<<10); len(chunk) > 0; {
		_, err := file.Write(chunk)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			chunk = chunk[:len(chunk)/2]
		case err != nil:
			t.Fatal(err)
		}
	}
}

// await waits until holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// run returns what a program prints, whatever its exit code.
func run(name string, args ...string) string {
	out, _ := exec.Command(name, args...).CombinedOutput()
	return string(out)
}

// TestTheDoctorFindsADiskThatIsSlow: each sync of one of three members takes 60 ms for a while.
func TestTheDoctorFindsADiskThatIsSlow(t *testing.T) {
	parts.Need(t, "strace")
	t.Parallel()
	kvctl := filepath.Join(parts.Build(t), "kvctl")
	c, err := cluster.New(cluster.Config{Program: cluster.KVD(filepath.Join(parts.Build(t), "kvd")), Members: 3, Dir: t.TempDir(), Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	victim := c.Members()[2]
	if err := c.Transfer(t.Context(), c.Members()[0]); err != nil {
		t.Fatal(err)
	}
	caller := cluster.NewCaller(2)
	t.Cleanup(caller.Close)
	end, err := victim.Slow(60 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	writes := 0
	await(t, "the doctor finds the slow disk", func() bool {
		for range 100 {
			writes++
			if _, err := caller.Keys(t.Context(), http.MethodPut, c.Members()[0].ClientURL, "/a", url.Values{"value": {fmt.Sprint(writes)}}); err != nil {
				t.Fatal(err)
			}
		}
		out := run(kvctl, "--endpoints", c.Members()[0].ClientURL, "doctor")
		return strings.Contains(out, "warning: m3: its disk is slow: more than one in a hundred syncs of the log take longer than 32ms")
	})
	if err := end(); err != nil {
		t.Error(err)
	}
}
