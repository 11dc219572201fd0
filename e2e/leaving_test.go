package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// ended waits for the process of member i to end by itself, and returns its exit code.
func (th *three) ended(i int) int {
	th.t.Helper()
	cmd := th.running[i]
	th.running[i] = nil
	late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer late.Stop()
	cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// TestMembersMoveAndLeave: the founders are known by name before all have started; one moves to another
// address while it is down; and one that is removed ends, and does not start again.
func TestMembersMoveAndLeave(t *testing.T) {
	t.Parallel()
	th := newThree(t)
	all := th.cluster(0, 1, 2)
	th.start(0, all, "ours")
	th.start(1, all, "ours")
	th.await(1, "/v2/members", func(_ int, body string) bool {
		return strings.Contains(body, `"name":"n3","peerURLs":["`+th.peers[2]+`"],"clientURLs":[]`) && strings.Contains(body, `"name":"n1"`)
	})
	th.start(2, all, "ours")
	for i := range 3 {
		th.healthy(i)
	}
	th.run("kvctl", "--endpoints", th.clients[0], "set", "/before", "1")

	th.stop(2, syscall.SIGTERM)
	old := th.peers[2]
	th.peers[2] = "http://127.0.0.1:" + freePorts(t, 1)[0]
	th.run("kvctl", "--endpoints", th.clients[0], "member", "update", "n3", th.peers[2])
	th.run("kvctl", "--endpoints", th.clients[0], "set", "/meanwhile", "1")
	th.start(2, th.cluster(0, 1, 2), "ours")
	th.healthy(2)
	if got := th.run("kvctl", "--endpoints", th.clients[2], "get", "--quorum", "/meanwhile"); got != "1\n" {
		th.fail("n3 has %q", got)
	}
	for i := range 3 {
		th.await(i, "/v2/members", func(_ int, body string) bool {
			return strings.Contains(body, th.peers[2]) && !strings.Contains(body, old)
		})
	}
	th.await(2, "/v2/cluster", func(_ int, body string) bool { return strings.Count(body, `"alive":true`) == 3 })
	th.equal()

	const why = "this member was removed from its cluster"
	th.run("kvctl", "--endpoints", th.clients[0], "member", "remove", "n3")
	if code := th.ended(2); code != 1 || !strings.Contains(th.said(2), why) {
		th.fail("a member that was removed ends with code %d", code)
	}
	th.start(2, th.cluster(0, 1, 2), "ours")
	const again = "start it with an empty --data-dir and --initial-cluster-state existing" // which the running one has not said
	if code := th.ended(2); code != 1 || !strings.Contains(th.said(2), again) {
		th.fail("started again, it ends with code %d", code)
	}
}

// TestAMemberThatWasRemovedWhileItWasDownEndsWhenItIsStarted: it has not seen its removal, and nobody sends
// it the log any more.
func TestAMemberThatWasRemovedWhileItWasDownEndsWhenItIsStarted(t *testing.T) {
	t.Parallel()
	th := newThree(t)
	all := th.cluster(0, 1, 2)
	for i := range 3 {
		th.start(i, all, "ours")
	}
	for i := range 3 {
		th.healthy(i)
	}
	th.await(0, "/v2/members", func(_ int, body string) bool { return strings.Contains(body, `"name":"n3"`) })
	th.stop(2, syscall.SIGKILL)
	th.run("kvctl", "--endpoints", th.clients[0], "member", "remove", "n3")
	th.start(2, all, "ours")
	if code := th.ended(2); code != 1 || !strings.Contains(th.said(2), "this member was removed from its cluster") {
		th.fail("it ends with code %d", code)
	}
}
