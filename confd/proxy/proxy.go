// Package proxy knows how programs that read a rendered file take up a new version of it: what can
// be changed while they run, what needs a reload, and how to see that what runs is what the file
// says. It does not write files, run commands or decide when to act: that is the caller's. It does
// not know where a file's contents come from and trusts none of them: only names, addresses and
// numbers that it has validated reach a program's control socket.
//
//	plan, err := applier.Plan(ctx, live, next)
//	switch plan.Kind {
//	case proxy.Runtime: err = applier.Apply(ctx, plan); err = applier.Confirm(ctx, next, proxy.Mark{})
//	case proxy.Reload:  mark, err := applier.Mark(ctx); ...reload...; err = applier.Confirm(ctx, next, mark)
//	}
package proxy

import (
	"bytes"
	"context"
	"strings"
)

// Applier speaks to one running program. It is not safe for concurrent use: it belongs to the
// goroutine that brings the program's file up to date.
type Applier interface {
	// Plan says what it takes to bring the running program from live, the contents it runs now, to
	// next. live is nil if it is not known. Plan changes nothing, and keeps neither slice. It may ask
	// the program for its version, for at most a second. An error means that no plan could be made:
	// the caller then reloads, as it does for Reload.
	Plan(ctx context.Context, live, next []byte) (Plan, error)

	// Apply brings about a plan of kind Runtime; a plan of another kind changes nothing. After an
	// error anything between none and all of it may have been done: the caller then reloads. Applying
	// a plan that was applied before, wholly or in part, is harmless. It is bounded by ctx and by the
	// applier's own time-outs.
	Apply(ctx context.Context, plan Plan) error

	// Mark returns the generation of the program that runs now, to be taken before a reload. A program
	// that does not run is a generation of its own and no error.
	Mark(ctx context.Context) (Mark, error)

	// Confirm returns nil if what runs is next. With the zero Mark it looks once, as after Apply, or
	// when nothing is thought to differ. With a mark taken before a reload it waits, bounded by ctx and
	// by the applier's own time-out, for a generation other than the marked one which runs next.
	// The error says what differs, or why the new generation did not come up.
	Confirm(ctx context.Context, next []byte, mark Mark) error
}

// Kind is what a plan takes.
type Kind int

const (
	Nothing Kind = iota // the program need not be told: it would do the same with either version
	Runtime             // Apply brings it about without a reload
	Reload              // only a reload does
)

// String returns the word that logs and commands use.
func (k Kind) String() string {
	switch k {
	case Nothing:
		return "nothing"
	case Runtime:
		return "runtime"
	}
	return "reload"
}

// Plan is what it takes to bring a program from one version of its file to another. It holds for
// the applier that made it.
type Plan struct {
	Kind   Kind
	Reason string   // for Reload: what cannot be changed at run time
	Steps  []string // for Runtime: what is to be changed, one line each, for people

	work any // of the applier
}

// String is one line for logs: the kind, and the reason or the number of steps.
func (p Plan) String() string {
	switch {
	case p.Reason != "":
		return p.Kind.String() + ": " + p.Reason
	case len(p.Steps) > 0:
		return p.Kind.String() + ": " + strings.Join(p.Steps, "; ")
	}
	return p.Kind.String()
}

// Mark is a generation of a running program: the time between two starts or reloads. The zero Mark
// is no generation at all.
type Mark struct {
	taken      bool
	generation any // of the applier, nil if nothing ran
}

// IsZero reports whether m was never taken.
func (m Mark) IsZero() bool { return !m.taken }

// Generic is the applier for a program of which nothing is known: every change takes a reload, and
// a reload that did not fail is believed. The zero value is ready.
type Generic struct{}

// Plan returns Nothing if live and next are the same bytes, else Reload.
func (Generic) Plan(_ context.Context, live, next []byte) (Plan, error) {
	return planWhole(live, next), nil
}

// planWhole is the plan for a program that can only be told of its whole file.
func planWhole(live, next []byte) Plan {
	switch {
	case live == nil:
		return Plan{Kind: Reload, Reason: "what runs now is not known"}
	case bytes.Equal(live, next):
		return Plan{}
	}
	return Plan{Kind: Reload, Reason: "the file changed"}
}

// Apply does nothing.
func (Generic) Apply(context.Context, Plan) error { return nil }

// Mark returns a mark that says nothing.
func (Generic) Mark(context.Context) (Mark, error) { return Mark{taken: true}, nil }

// Confirm returns nil: there is nobody to ask.
func (Generic) Confirm(context.Context, []byte, Mark) error { return nil }
