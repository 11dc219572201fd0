package kv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestAnErrorSaysWhatItKnowsAndNothingElse(t *testing.T) {
	for want, e := range map[string]*Error{
		"set /a: key not found (/a) [12]":             {Op: "set", Key: "/a", Kind: NotFound, Cause: "/a", Index: 12},
		"store unavailable: connection refused":       {Kind: Unavailable, Err: errors.New("connection refused")},
		"watch: closed":                               {Op: "watch", Kind: Closed},
		"/a: not a file":                              {Key: "/a", Kind: NotFile},
		"get /: history has been cleared [7]":         {Op: "get", Key: "/", Kind: HistoryGone, Index: 7},
		"kind 200":                                    {Kind: 200},
		"timed out: context deadline exceeded":        {Kind: Timeout, Err: context.DeadlineExceeded},
		"update /a: compare failed ([1 != 2]) [3]: x": {Op: "update", Key: "/a", Kind: CompareFailed, Cause: "[1 != 2]", Index: 3, Err: errors.New("x")},
	} {
		if got := e.Error(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func TestEveryKindHasAText(t *testing.T) {
	for k := Internal; k <= NoLease; k++ {
		if strings.HasPrefix(k.String(), "kind ") || k.String() == "" {
			t.Errorf("kind %d has no text", uint8(k))
		}
	}
}

func TestKindsAreFoundThroughWrapping(t *testing.T) {
	err := fmt.Errorf("while trying: %w", &Error{Kind: NoLeader, Err: context.Canceled})
	if KindOf(err) != NoLeader || !Is(err, NoLeader) || Is(err, NotFound) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v is of kind %v", err, KindOf(err))
	}
	if KindOf(errors.New("plain")) != Internal || Is(errors.New("plain"), Internal) || Is(nil, Internal) {
		t.Error("an error without a kind counts as a defect, and is none of kv's")
	}
}

func TestOnlyTroubleOfTheStoreIsTemporary(t *testing.T) {
	temporary := map[Kind]bool{NoLeader: true, Timeout: true, Unknown: true, Unavailable: true}
	for k := Internal; k <= NoLease; k++ {
		if got := Temporary(&Error{Kind: k}); got != temporary[k] {
			t.Errorf("%v: temporary %v", k, got)
		}
	}
	if Temporary(nil) {
		t.Error("no error is temporary")
	}
}

func TestSenselessWritesAreRefused(t *testing.T) {
	deep := strings.Repeat("/a", levelsMax)
	for name, c := range map[string]struct {
		write Write
		want  Kind
	}{
		"no operation":         {Write{Key: "/a"}, Invalid},
		"an unknown operation": {Write{Op: 99, Key: "/a"}, Invalid},
		"a swap of nothing":    {Write{Op: OpCompareAndSwap, Key: "/a", Value: "x"}, Invalid},
		"a delete of nothing":  {Write{Op: OpCompareAndDelete, Key: "/a"}, Invalid},
		"a refresh for ever":   {Write{Op: OpUpdate, Key: "/a", Refresh: true}, Invalid},
		"a lease and a TTL":    {Write{Op: OpSet, Key: "/a", TTL: time.Second, Lease: 1}, Invalid},
		"a refreshing lease":   {Write{Op: OpSet, Key: "/a", Refresh: true, Lease: 1}, Invalid},
		"one level too many":   {Write{Op: OpSet, Key: deep + "/a"}, TooLarge},
	} {
		if err := c.write.Check(); !Is(err, c.want) {
			t.Errorf("%s: got %v, want kind %v", name, err, c.want)
		}
	}
	for _, w := range []Write{
		{Op: OpSet, Key: deep + "/"},
		{Op: OpCompareAndSwap, Key: "/a", PrevIndex: 1},
		{Op: OpCompareAndDelete, Key: "/a", PrevValue: "x"},
		{Op: OpSet, Key: "/a", Refresh: true, TTL: time.Second},
		{Op: OpDelete, Key: "/a"},
		{Op: OpSet, Key: "/a", Lease: 1},
	} {
		if err := w.Check(); err != nil {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

func TestRemovalsAreTold(t *testing.T) {
	for action, want := range map[Action]bool{
		ActionGet: false, ActionSet: false, ActionCreate: false, ActionUpdate: false, ActionCompareAndSwap: false,
		ActionDelete: true, ActionCompareAndDelete: true, ActionExpire: true,
	} {
		if got := (Event{Action: action}).Removes(); got != want {
			t.Errorf("%s removes: %v", action, got)
		}
	}
}
