package nameserver

import (
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// unreachableMax is how many names of services Status gives as examples.
const unreachableMax = 5

// counters count what was answered.
type counters struct {
	answered, negative, refused, failed, invalid atomic.Uint64
	truncated, dropped, disallowed               atomic.Uint64
	crowded, unsent                              atomic.Uint64
}

// count counts an answer.
func (c *counters) count(reply *dns.Msg) {
	if reply.Truncated {
		c.truncated.Add(1)
	}
	switch reply.Rcode {
	case dns.RcodeSuccess:
		if len(reply.Answer) == 0 {
			c.negative.Add(1)
			return
		}
		c.answered.Add(1)
	case dns.RcodeNameError:
		c.negative.Add(1)
	case dns.RcodeRefused:
		c.refused.Add(1)
	case dns.RcodeServerFailure:
		c.failed.Add(1)
	default:
		c.invalid.Add(1)
	}
}

// Status says how a server fares.
type Status struct {
	Domain    string   `json:"domain"`
	Addresses []string `json:"addresses"`         // listened at
	Waiting   []string `json:"waiting,omitempty"` // why it is not listened at others

	// How true answers are: whether everything was read once, how long ago the store was heard last, in
	// seconds, which is 0 while it is, and why it is not.
	Complete   bool    `json:"complete"`
	AgeSeconds float64 `json:"ageSeconds"`
	Problem    string  `json:"problem,omitempty"`

	Services  int `json:"services"`
	Instances int `json:"instances"`
	// Unreachable is how many services have names that are no labels of the DNS, so that nobody can ask for
	// them; Examples are the first of them.
	Unreachable int      `json:"unreachable"`
	Examples    []string `json:"examples,omitempty"`
	Unreadable  int      `json:"unreadable"` // keys that are no valid record

	// Answers since the start, each in one of: with records, that there are none, refused, cannot tell, not
	// understood. Disallowed are questions and connections from networks that are not allowed; Dropped were no
	// questions; Truncated were too large for UDP; Crowded are TCP connections that there was no room for.
	Answered   uint64 `json:"answered"`
	Negative   uint64 `json:"negative"`
	Refused    uint64 `json:"refused"`
	Failed     uint64 `json:"failed"`
	Invalid    uint64 `json:"invalid"`
	Disallowed uint64 `json:"disallowed"`
	Dropped    uint64 `json:"dropped"`
	Truncated  uint64 `json:"truncated"`
	Crowded    uint64 `json:"crowded"`
	Unsent     uint64 `json:"unsent"`

	Connections int `json:"connections"` // TCP, now
}

// Status returns how the server fares now.
func (s *Server) Status() Status {
	state := s.cfg.Catalog.State()
	status := Status{
		Domain: s.domain, Complete: state.Complete,
		Services: state.Services, Instances: state.Instances, Unreadable: state.Unreadable,
		Answered: s.counts.answered.Load(), Negative: s.counts.negative.Load(), Refused: s.counts.refused.Load(), Failed: s.counts.failed.Load(),
		Invalid: s.counts.invalid.Load(), Disallowed: s.counts.disallowed.Load(), Dropped: s.counts.dropped.Load(), Truncated: s.counts.truncated.Load(),
		Crowded: s.counts.crowded.Load(), Unsent: s.counts.unsent.Load(), Connections: s.conns.count(),
	}
	status.Addresses, status.Waiting = s.places.Whereabouts()
	if state.Err != nil {
		status.Problem = state.Err.Error()
		if !state.Since.IsZero() {
			status.AgeSeconds = max(0, s.cfg.Now().Sub(state.Since)).Round(time.Millisecond).Seconds()
		}
	}
	for _, name := range s.cfg.Catalog.Services() {
		if !isLabel(name) {
			if status.Unreachable++; status.Unreachable <= unreachableMax {
				status.Examples = append(status.Examples, name)
			}
		}
	}
	return status
}
