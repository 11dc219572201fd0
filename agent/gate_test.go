package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// counted is a check that fails until it is told to pass, and counts how often it was asked.
type counted struct {
	name  string
	well  atomic.Bool
	asked atomic.Int64
}

func (c *counted) Run(context.Context) error {
	c.asked.Add(1)
	if c.well.Load() {
		return nil
	}
	return errors.New("not yet")
}

func (c *counted) String() string { return c.name }

func offer(id, run string, checks ...health.Check) Offer {
	return Offer{
		Record:   registry.Record{Service: "web", Instance: id, Protocol: "tcp"},
		Workload: workload.Workload{ID: id, Run: run}, Port: 80, Checks: Checks{Own: checks},
	}
}

// inGate runs test with a gate in a bubble where time passes as soon as nothing else happens.
// admit lets the gate learn all that has been found out, and returns how many records it admits.
func inGate(t *testing.T, test func(t *testing.T, admit func(...Offer) int, g *gate)) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t.Context(), slog.New(slog.DiscardHandler))
		defer g.close()
		admit := func(offers ...Offer) int {
			for {
				synctest.Wait()
				select {
				case v := <-g.verdicts:
					g.note(v)
					continue
				default:
				}
				return len(g.admit(offers))
			}
		}
		test(t, admit, g)
	})
}

func TestAnOfferWithoutChecksIsAdmittedAtOnce(t *testing.T) {
	inGate(t, func(t *testing.T, admit func(...Offer) int, g *gate) {
		if n := admit(offer("a", "1")); n != 1 || !g.allTried() {
			t.Errorf("%d admitted, all tried: %v", n, g.allTried())
		}
	})
}

func TestAnOfferIsAdmittedOnceItAnswersAndNotAskedAgain(t *testing.T) {
	inGate(t, func(t *testing.T, admit func(...Offer) int, g *gate) {
		check := &counted{name: "a"}
		if n := admit(offer("a", "1", check)); n != 0 || g.allTried() {
			t.Fatalf("%d admitted, all tried: %v", n, g.allTried())
		}
		if n := admit(offer("a", "1", check)); n != 0 || !g.allTried() {
			t.Fatalf("%d admitted after a failure, all tried: %v", n, g.allTried())
		}
		check.well.Store(true)
		time.Sleep(retryMax)
		if n := admit(offer("a", "1", check)); n != 1 {
			t.Fatal("not admitted although it answers")
		}
		asked := check.asked.Load()
		check.well.Store(false)
		time.Sleep(time.Hour)
		if n := admit(offer("a", "1", check)); n != 1 || check.asked.Load() != asked {
			t.Errorf("%d admitted, asked %d times more", n, check.asked.Load()-asked)
		}
	})
}

func TestAnotherRunOfTheContainerHasToAnswerAnew(t *testing.T) {
	inGate(t, func(t *testing.T, admit func(...Offer) int, g *gate) {
		check := &counted{name: "a"}
		check.well.Store(true)
		admit(offer("a", "1", check))
		if n := admit(offer("a", "1", check)); n != 1 {
			t.Fatal("the first run was not admitted")
		}
		check.well.Store(false)
		if n := admit(offer("a", "2", check)); n != 0 {
			t.Error("the second run was admitted without an answer")
		}
	})
}

func TestAnOfferThatCameBackHasToAnswerAnew(t *testing.T) {
	inGate(t, func(t *testing.T, admit func(...Offer) int, g *gate) {
		check := &counted{name: "a"}
		check.well.Store(true)
		admit(offer("a", "1", check))
		admit(offer("a", "1", check))
		admit()
		check.well.Store(false)
		if n := admit(offer("a", "1", check)); n != 0 {
			t.Error("an offer that had gone was admitted without an answer")
		}
	})
}

func TestNobodyAsksForAnOfferThatHasGone(t *testing.T) {
	inGate(t, func(t *testing.T, admit func(...Offer) int, g *gate) {
		check := &counted{name: "a"}
		admit(offer("a", "1", check))
		admit()
		synctest.Wait()
		asked := check.asked.Load()
		time.Sleep(time.Hour)
		if n := check.asked.Load() - asked; n != 0 {
			t.Errorf("asked %d times more", n)
		}
	})
}

func TestNewAddressesAreAskedInsteadOfTheOld(t *testing.T) {
	inGate(t, func(t *testing.T, admit func(...Offer) int, g *gate) {
		before, after := &counted{name: "before"}, &counted{name: "after"}
		admit(offer("a", "1", before))
		after.well.Store(true)
		admit(offer("a", "1", after))
		if n := admit(offer("a", "1", after)); n != 1 {
			t.Error("not admitted although the new address answers")
		}
	})
}

func TestAnOfferThatNeverAnswersIsAskedAtABoundedRate(t *testing.T) {
	inGate(t, func(t *testing.T, admit func(...Offer) int, g *gate) {
		check := &counted{name: "a"}
		admit(offer("a", "1", check))
		admit(offer("a", "1", check)) // takes the verdict of the first attempt
		time.Sleep(time.Minute)
		if n := check.asked.Load(); n < 100 || n > int64(time.Minute/retryMax)+10 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}
