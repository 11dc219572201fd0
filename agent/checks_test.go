package agent

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/pkg/health"
)

// answer is a health.Check that always gives the same answer.
type answer struct {
	name string
	err  error
}

func (a answer) Run(context.Context) error { return a.err }
func (a answer) String() string            { return a.name }

func TestWhatTheContainerItselfAnswersCounts(t *testing.T) {
	accepts := answer{"accepts", nil}
	refuses := answer{"refuses", fmt.Errorf("tcp check: %w", syscall.ECONNREFUSED)}
	isSick := answer{"is sick", errors.New("http check: 503")}
	unreachable := answer{"unreachable", fmt.Errorf("tcp check: %w", syscall.EHOSTUNREACH)}
	tooFar := answer{"too far", fmt.Errorf("tcp check: %w", context.DeadlineExceeded)}
	for _, c := range []struct {
		name      string
		own       []health.Check
		published health.Check
		passes    bool
	}{
		{"it accepts", []health.Check{accepts}, refuses, true},
		{"it refuses while the proxy accepts", []health.Check{refuses}, accepts, false},
		{"it is sick while the proxy accepts", []health.Check{isSick}, accepts, false},
		{"one of its networks answers", []health.Check{refuses, accepts}, refuses, true},
		{"it cannot be reached and the proxy accepts", []health.Check{unreachable}, accepts, true},
		{"it is behind a filter and the proxy accepts", []health.Check{tooFar}, accepts, true},
		{"it cannot be reached and the proxy refuses", []health.Check{unreachable}, refuses, false},
		{"one network refuses, the other cannot be reached", []health.Check{unreachable, refuses}, accepts, false},
		{"it cannot be reached and is not published", []health.Check{unreachable}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := nearest{own: c.own, published: c.published}.Run(t.Context())
			if (err == nil) != c.passes {
				t.Errorf("got %v", err)
			}
		})
	}
}
