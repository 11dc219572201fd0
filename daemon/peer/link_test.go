package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestAMemberThatDoesNotAnswerIsToldOnceAMinuteByItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		log := slog.New(slog.NewTextHandler(&said, nil))
		n := &Network{log: log, told: told{now: time.Now}, config: Config{Name: func(member uint64) string { return map[uint64]string{2: "n2"}[member] }}}
		l := &link{network: n, member: 2}
		for port := range 60 {
			attempt := &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000 + port},
				Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2380}, Err: syscall.ETIMEDOUT}
			l.failed(context.Background(), "cannot reach a member", fmt.Errorf("it does not answer: %w", attempt))
			time.Sleep(2 * time.Second)
		}
		if lines := strings.Count(said.String(), "\n"); lines != 2 || strings.Count(said.String(), "member=2 name=n2 err=") != 2 {
			t.Errorf("in two minutes %d lines:\n%s", lines, said.String())
		}
		l.member = 3
		said.Reset()
		l.failed(context.Background(), "cannot reach a member", errors.New("refused"))
		if strings.Contains(said.String(), "name=") {
			t.Errorf("nobody knows its name: %s", said.String())
		}
	})
}
