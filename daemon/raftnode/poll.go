package raftnode

import (
	"slices"
	"time"
)

const (
	// pollPatience is how long those who were quick the last time may take, before the others are asked.
	pollPatience = 10 * time.Millisecond
	// pollAll is the number of polls of which one asks all, to find out who is quick now.
	pollAll = 64
)

// poll asks voters for something that many of them can tell. It asks as many as are needed, those who
// were quick the last time, and the others only when one of those takes long or does not tell: a member
// that is asked thousands of times a second has less left for its own clients. It is for one run at a time.
type poll struct {
	start func(func()) bool // see rounds

	quick []ID // who has told the last time, the first first
	runs  int
}

// run reports whether as many voters as are needed have told. tell asks one of them; it is called from
// several goroutines, which may outlive the run, and bounds itself.
func (p *poll) run(voters []ID, needed int, tell func(ID) bool) bool {
	voters = p.order(voters)
	first := min(needed, len(voters))
	if p.runs%pollAll == 0 {
		first = len(voters)
	}
	p.runs++
	type answer struct {
		voter ID
		told  bool
	}
	answers := make(chan answer, len(voters))
	ask := func(voters []ID) {
		for _, v := range voters {
			if !p.start(func() { answers <- answer{v, tell(v)} }) {
				answers <- answer{v, false}
			}
		}
	}
	ask(voters[:first])
	late := time.NewTimer(pollPatience)
	defer late.Stop()
	var told []ID
	for open := first; len(told) < needed; {
		select {
		case a := <-answers:
			open--
			if a.told {
				told = append(told, a.voter)
				continue
			}
		case <-late.C:
		}
		ask(voters[first:])
		open += len(voters) - first
		first = len(voters)
		if open+len(told) < needed {
			return false
		}
	}
	p.quick = told
	return true
}

// order returns voters, those who were quick at the front.
func (p *poll) order(voters []ID) []ID {
	order := make([]ID, 0, len(voters))
	for _, v := range p.quick {
		if slices.Contains(voters, v) {
			order = append(order, v)
		}
	}
	for _, v := range voters {
		if !slices.Contains(order, v) {
			order = append(order, v)
		}
	}
	return order
}
