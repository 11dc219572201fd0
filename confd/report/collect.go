package report

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Store is where keys come from, and how far that is known.
type Store struct {
	Name      string    `json:"name"` // "etcd http://10.0.0.1:2379", "env"
	Index     kv.Index  `json:"index"`
	Cluster   string    `json:"cluster,omitempty"`
	Keys      int       `json:"keys"`
	BytesRead uint64    `json:"bytesRead"`
	Heard     time.Time `json:"heard,omitzero"` // last; now while it is followed
	Err       string    `json:"error,omitempty"`
	Stale     time.Time `json:"stale,omitzero"` // since when nothing newer is known; zero: it is current
	// Published says that status is kept there, and Index that of the agent.
	Published bool `json:"published,omitempty"`
}

// isHeard reports whether what is known of s is current.
func (s Store) isHeard() bool { return s.Err == "" && s.Stale.IsZero() && !s.Heard.IsZero() }

// Explanation says what makes a file, or one line of it, what it is. It holds no value of any key.
type Explanation struct {
	File   string       `json:"file"`
	Line   int          `json:"line,omitempty"`
	Target TargetStatus `json:"target"`
	From   string       `json:"resourceFile"`
	Src    string       `json:"template"`
	Check  string       `json:"check,omitempty"`  // command
	Reload string       `json:"reload,omitempty"` // command
	Reads  []string     `json:"reads,omitempty"`  // keys, directories and patterns that the last render has looked at
	Others string       `json:"others,omitempty"` // what else it asked for: the time, names, files
	Causes []Cause      `json:"causes,omitempty"` // of the line
	Note   string       `json:"note,omitempty"`   // what keeps the explanation from being complete
}

// Cause is a key on which a line depends.
type Cause struct {
	Key    string `json:"key"`
	Effect string `json:"effect"` // what becomes of the line without it, or with another value
}

// Agent is what a Report asks of the loop beyond what it is told. It is safe for concurrent use, and does not
// wait for a pass.
type Agent interface {
	// Live is the index of the store that status is published in, up to which every target was brought up to
	// date or has failed; 0 before that is known.
	Live() kv.Index
	// Stores returns where keys come from.
	Stores() []Store
	// Problems are what keeps the agent from doing what is wanted beside targets: resource files that cannot
	// be used.
	Problems() []string
	// Stuck names a part of the agent that makes no progress, "" if all do.
	Stuck(now time.Time) string
	// Release lets what is held under this name through once. Errors by Kind: NotFound if nothing is called so,
	// CompareFailed if it is not held.
	Release(name string) error
	// Explain says what makes a file, or a line of it if that is not 0.
	Explain(ctx context.Context, file string, line int) (Explanation, error)
}

// underWayMax is how long a target may be on its way before it counts as a problem.
const underWayMax = 10 * time.Second

// errorBytesMax bounds the text of an error that is passed on.
const errorBytesMax = 500

// Config says whose report it is.
type Config struct {
	Host    string // the name of this host
	Version string
	Log     *slog.Logger     // nil discards
	Now     func() time.Time // nil: the clock
}

// Report is a Reporter that remembers where targets stand, and tells it to whoever asks.
type Report struct {
	cfg     Config
	started time.Time
	metrics *metrics
	wake    chan struct{} // holds one token when something has changed that is published or told

	mu      sync.Mutex // guards the fields below
	agent   Agent      // nil before the loop runs
	targets map[string]entry
	rival   time.Time // another agent was seen that publishes under the same name; zero: never
}

// entry is a target as it is remembered.
type entry struct {
	TargetStatus
	settled time.Time // it was converged or held last; zero: never
	passed  bool      // it has been through a pass
}

// New returns an empty report.
func New(cfg Config) *Report {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Report{cfg: cfg, started: cfg.Now(), wake: make(chan struct{}, 1), targets: map[string]entry{}}
	r.metrics = newMetrics(r)
	return r
}

// Attach tells the report whom to ask.
func (r *Report) Attach(agent Agent) {
	r.mu.Lock()
	r.agent = agent
	r.mu.Unlock()
	r.poke()
}

// poke says that something has changed.
func (r *Report) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Target implements Reporter.
func (r *Report) Target(s TargetStatus) {
	s.Err = clean(s.Err)
	now := r.cfg.Now()
	if s.Since.IsZero() {
		s.Since = now
	}
	r.mu.Lock()
	old := r.targets[s.Name]
	isUnderWay := !isSettled(s.State) && s.State != Waiting
	if old.State == Failed && isUnderWay { // it has failed until it has succeeded: a try says nothing
		r.mu.Unlock()
		return
	}
	if old.State == Failed && s.State == Failed {
		s.Since = old.Since
	}
	e := entry{s, old.settled, old.passed}
	if s.State == Converged || s.State == Held {
		e.settled = now
	}
	if isSettled(s.State) {
		e.passed = true
	}
	r.targets[s.Name] = e
	r.mu.Unlock()
	r.metrics.count(old.TargetStatus, s)
	r.poke()
}

// isSettled reports whether a pass has ended so.
func isSettled(s State) bool {
	return s == Converged || s == Held || s == Failed || s == Stale
}

// Gone implements Reporter.
func (r *Report) Gone(name string) {
	r.mu.Lock()
	delete(r.targets, name)
	r.mu.Unlock()
	r.poke()
}

// Step implements Reporter.
func (r *Report) Step(_, step string, took time.Duration, err error) { r.metrics.step(step, took, err) }

// clean makes one line of at most errorBytesMax bytes of a text, without what a terminal would act upon.
func clean(text string) string {
	text = strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
			return ' '
		case unicode.IsControl(c) || c == utf8.RuneError:
			return -1
		}
		return c
	}, text)
	if len(text) <= errorBytesMax {
		return text
	}
	cut := errorBytesMax
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// Status is how everything stands at one moment.
type Status struct {
	Host     string         `json:"host"`
	Version  string         `json:"version"`
	Time     time.Time      `json:"time"`
	Started  time.Time      `json:"started"`
	Index    kv.Index       `json:"index"` // up to which every target was brought up to date or has failed
	Stores   []Store        `json:"stores"`
	Targets  []TargetStatus `json:"targets"` // by name
	Problems []Problem      `json:"problems"`
}

// Problem is something that keeps what runs from being what the store says.
type Problem struct {
	Target string    `json:"target,omitempty"`
	Store  string    `json:"store,omitempty"`
	State  State     `json:"state,omitempty"`
	Step   string    `json:"step,omitempty"`
	Err    string    `json:"error"`
	Since  time.Time `json:"since,omitzero"`
	Next   time.Time `json:"next,omitzero"` // when it is tried again

	beside bool // what runs may well be right: it is about what is told of it
}

// String says the problem in one line.
func (p Problem) String() string {
	switch {
	case p.Store != "":
		return "store " + p.Store + ": " + p.Err
	case p.Target == "":
		return p.Err
	}
	text := p.Target + " " + string(p.State)
	if p.Step != "" {
		text += " at " + p.Step
	}
	if p.Err != "" {
		text += ": " + p.Err
	}
	return text
}

// Status returns how everything stands now.
func (r *Report) Status() Status {
	now := r.cfg.Now()
	s := Status{Host: r.cfg.Host, Version: r.cfg.Version, Time: now, Started: r.started, Stores: []Store{}, Targets: []TargetStatus{}, Problems: []Problem{}}
	agent := r.asked()
	if agent == nil {
		s.Problems = append(s.Problems, Problem{Err: "it has not begun yet"})
		return s
	}
	s.Index = agent.Live() // before the targets: what became of them up to there is then among what they are
	r.mu.Lock()
	entries := slices.SortedFunc(maps.Values(r.targets), func(a, b entry) int { return cmp.Compare(a.Name, b.Name) })
	rival := r.rival
	r.mu.Unlock()
	s.Stores = append(s.Stores, agent.Stores()...)
	for _, store := range s.Stores {
		if !store.isHeard() {
			s.Problems = append(s.Problems, Problem{Store: store.Name, Err: cmp.Or(store.Err, "it has not been heard yet"), Since: store.Stale})
		}
	}
	for _, e := range entries {
		s.Targets = append(s.Targets, e.TargetStatus)
		if e.isProblem(now) {
			s.Problems = append(s.Problems, Problem{Target: e.Name, State: e.State, Step: e.TargetStatus.Step, Err: e.Err, Since: e.Since, Next: e.Next})
		}
	}
	for _, text := range agent.Problems() {
		s.Problems = append(s.Problems, Problem{Err: clean(text)})
	}
	if part := agent.Stuck(now); part != "" {
		s.Problems = append(s.Problems, Problem{Err: part + " makes no progress"})
	}
	if !rival.IsZero() && now.Sub(rival) < rivalMemory {
		s.Problems = append(s.Problems, Problem{Err: "another kvconfd publishes its status as " + s.Host + " too: give one of them another name by --host", beside: true})
	}
	return s
}

// ailments returns the problems of what runs, rather than of what is told of it.
func (s Status) ailments() []Problem {
	return slices.DeleteFunc(slices.Clone(s.Problems), func(p Problem) bool { return p.beside })
}

// meet notes that another agent publishes under this one's name.
func (r *Report) meet() {
	r.mu.Lock()
	r.rival = r.cfg.Now()
	r.mu.Unlock()
	r.poke()
}

// isProblem reports whether what runs is not what is wanted. One that is on its way is none for a while, nor is one
// whose reload is not to begin yet.
func (e entry) isProblem(now time.Time) bool {
	switch e.State {
	case Converged, Held:
		return false
	case Rendered, Checked, Applied, Written, Reloaded:
		if e.Next.After(now) {
			return false
		}
		return e.settled.IsZero() || min(now.Sub(e.settled), now.Sub(e.Since), now.Sub(e.Next)) > underWayMax
	}
	return true
}

// ready reports whether every target has been through a pass.
func (r *Report) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.agent == nil {
		return false
	}
	for _, e := range r.targets {
		if !e.passed {
			return false
		}
	}
	return true
}

// Summary says how everything stands, in one line.
func (s Status) Summary() string {
	converged := 0
	for _, t := range s.Targets {
		if t.State.runs() {
			converged++
		}
	}
	text := ""
	if s.Index > 0 {
		text = "index " + itoa(s.Index) + ", "
	}
	text += itoa(uint64(converged)) + " of " + itoa(uint64(len(s.Targets))) + " converged"
	for i, p := range s.Problems {
		if i == 3 {
			return text + "; and " + itoa(uint64(len(s.Problems)-i)) + " more"
		}
		text += "; " + p.String()
	}
	return text
}
