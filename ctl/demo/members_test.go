package demo

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// standing is a member that answers everything with body, or with 503 for "".
func standing(t *testing.T, body string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if body == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestMembersAreEqualWhenIndexAndSumAre(t *testing.T) {
	one := standing(t, `{"index":3,"raftIndex":9,"sum":"0a"}`)
	same := standing(t, `{"index":3,"raftIndex":9,"sum":"0a"}`)
	for name, c := range map[string]struct {
		other string
		want  bool
	}{
		"the same":          {same, true},
		"behind":            {standing(t, `{"index":3,"raftIndex":8,"sum":"0a"}`), false},
		"another sum":       {standing(t, `{"index":3,"raftIndex":9,"sum":"0b"}`), false},
		"no state":          {standing(t, `{}`), false},
		"no JSON":           {standing(t, `it works`), false},
		"not serving":       {standing(t, ""), false},
		"nobody listens":    {"http://127.0.0.1:1", false},
		"an endless answer": {standing(t, `{"sum":"`+strings.Repeat("0", 1<<20)+`"}`), false},
	} {
		if got := equal([]string{one, same, c.other}); got != c.want {
			t.Errorf("%s: equal is %v", name, got)
		}
	}
	if empty := standing(t, `{}`); equal([]string{empty, empty}) {
		t.Error("two without a state are equal")
	}
}

func TestTheMembersBeginTogether(t *testing.T) {
	s := &stage{programs: programs{kvd: "/bin/kvd"}, folder: "/f", service: "token"}
	s.planMembers([]int{1, 2, 3}, []int{11, 12, 13})
	if s.endpoints() != "http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:3" {
		t.Errorf("endpoints %s", s.endpoints())
	}
	folders := map[string]bool{}
	for _, m := range s.members {
		value := func(flag string) string { return m.argv[slices.Index(m.argv, flag)+1] }
		if got := value("--initial-cluster"); got != "kvd-1=http://127.0.0.1:11,kvd-2=http://127.0.0.1:12,kvd-3=http://127.0.0.1:13" {
			t.Errorf("%s begins with %s", m.name, got)
		}
		folders[value("--data-dir")] = true
	}
	if len(folders) != 3 {
		t.Errorf("folders %v", folders)
	}
}

// quickly plays one step without an act.
func quickly(t *testing.T, st step) Step {
	s := &stage{cfg: config{slack: 1}}
	st.act = func(context.Context) (time.Time, error) { return time.Time{}, nil }
	if err := s.perform(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	return s.report.Steps[0]
}

func TestAStepHoldsOnlyIfItsCheckDoes(t *testing.T) {
	holds := func() (time.Time, bool) { return time.Now(), true }
	asked := 0
	check := func(context.Context) error { asked++; return errors.New("3 are lost") }
	if got := quickly(t, step{within: time.Minute, held: holds, check: check}); got.Held || got.Problem != "3 are lost" || asked != 1 {
		t.Errorf("asked %d times: %+v", asked, got)
	}
	if got := quickly(t, step{within: time.Minute, held: holds}); !got.Held {
		t.Errorf("got %+v", got)
	}
	late := func() (time.Time, bool) { return time.Now().Add(time.Hour), true }
	if got := quickly(t, step{within: time.Minute, held: late, check: check}); got.Problem != "too late" || asked != 1 {
		t.Errorf("asked %d times: %+v", asked, got)
	}
}
