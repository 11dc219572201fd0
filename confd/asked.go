package confd

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/pkg/kv"
)

// asked is a running agent as its report asks it.
type asked struct {
	Control
	cfg Config
}

// Live implements report.Agent.
func (a asked) Live() kv.Index {
	if agent, ok := a.Control.(interface{ Live() kv.Index }); ok {
		return agent.Live()
	}
	return 0
}

// Stores implements report.Agent.
func (a asked) Stores() []report.Store {
	if agent, ok := a.Control.(interface{ Stores() []report.Store }); ok {
		return agent.Stores()
	}
	return nil
}

// Problems implements report.Agent.
func (a asked) Problems() []string {
	if agent, ok := a.Control.(interface{ Problems() []string }); ok {
		return agent.Problems()
	}
	return nil
}

// Stuck implements report.Agent.
func (a asked) Stuck(now time.Time) string {
	if agent, ok := a.Control.(interface{ Stuck(time.Time) string }); ok {
		return agent.Stuck(now)
	}
	return ""
}

// Explain implements report.Agent.
func (a asked) Explain(ctx context.Context, file string, line int) (report.Explanation, error) {
	return report.Explanation{}, &kv.Error{Op: "explain", Kind: kv.NotFound}
}
