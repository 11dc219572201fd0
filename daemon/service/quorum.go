package service

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Standing is one member as the quorum sees it.
type Standing struct {
	ID    uint64
	Name  string // "" until it has one: then it is called by its id
	Voter bool   // else it receives the log and decides nothing
	Alive bool   // it answers
}

func (s Standing) called() string {
	if s.Name != "" {
		return s.Name
	}
	return strconv.FormatUint(s.ID, 16)
}

// Change is what is to happen to one member.
type Change uint8

// The changes.
const (
	AddVoter      Change = iota + 1 // a new member joins without a vote and gets one when it has caught up
	AddLearner                      // a new member joins without a vote
	RemoveMember                    // a member leaves for good
	PromoteMember                   // a learner gets a vote
	DemoteMember                    // a voter loses its vote
)

// ParseChange returns the change that a word stands for: add, add-learner, remove, promote, demote.
func ParseChange(word string) (Change, bool) {
	i := slices.Index([]string{"add", "add-learner", "remove", "promote", "demote"}, word)
	return Change(i + 1), i >= 0
}

// Consequence is what a change does to the quorum.
type Consequence struct {
	Text string // one sentence without a full stop

	Voters, Alive, Needed int  // after the change: voters, those of them that answer, and how many decide
	LosesQuorum           bool // too few would be left to decide anything: writes would stop
	Stuck                 bool // too few answer already now: the change itself cannot be decided
}

// WhatIf returns what a change of the member who does to the quorum of members. For a new member only
// its name counts, and it counts as alive once it votes: one that does not catch up gets no vote. Errors
// by Kind: NotFound if who is no member, Invalid if the change is none.
func WhatIf(members []Standing, change Change, who Standing) (Consequence, error) {
	at := slices.IndexFunc(members, func(m Standing) bool { return m.ID == who.ID })
	if change != AddVoter && change != AddLearner {
		if at < 0 {
			return Consequence{}, noMember(who.ID)
		}
		who = members[at]
	}
	name := who.called()
	after := slices.Clone(members)
	var what string
	switch change {
	case AddVoter:
		after = append(after, Standing{Voter: true, Alive: true})
		what = name + " joins without a vote and gets one when it has caught up, which makes "
	case AddLearner:
		what = name + " joins without a vote, which leaves "
	case RemoveMember:
		after = slices.Delete(after, at, at+1)
		what = "removing " + name + " leaves "
		if !who.Voter {
			what = "removing " + name + ", which has no vote, leaves "
		}
	case PromoteMember:
		if who.Voter {
			return Consequence{}, &kv.Error{Op: "member promote", Kind: kv.Invalid, Cause: name + " has a vote already"}
		}
		after[at].Voter = true
		what = "promoting " + name + " makes "
	case DemoteMember:
		if !who.Voter {
			return Consequence{}, &kv.Error{Op: "member demote", Kind: kv.Invalid, Cause: name + " has no vote"}
		}
		after[at].Voter = false
		what = "demoting " + name + " leaves "
	default:
		return Consequence{}, &kv.Error{Op: "member check", Kind: kv.Invalid, Cause: fmt.Sprintf("there is no change %d", change)}
	}
	return foresee(members, after, what), nil
}

func foresee(before, after []Standing, what string) Consequence {
	now, then := countVotes(before), countVotes(after)
	c := Consequence{
		Voters: then.voters, Alive: then.alive, Needed: then.needed(),
		LosesQuorum: !then.decides(), Stuck: !now.decides(),
	}
	text := now.String() + ": "
	switch {
	case c.Stuck:
		text += fmt.Sprintf("%s needed, so that no change can be made until more of them are back", are(now.needed()))
	case then.voters == 0:
		text += what + "nobody who votes: there would be no cluster"
	case now == then:
		text += what + "all votes as they are: " + then.outlook()
	default:
		text += what + then.left() + ": " + then.outlook()
	}
	c.Text = text
	return c
}

// Quorum returns how the quorum of members stands, in one sentence without a full stop.
func Quorum(members []Standing) string {
	v := countVotes(members)
	if !v.decides() {
		return fmt.Sprintf("%v, %s needed: nothing can be written until more of them are back", v, are(v.needed()))
	}
	return fmt.Sprintf("%v, %s needed: %s", v, are(v.needed()), v.outlook())
}

// votes is how many members decide, and how many of them answer.
type votes struct{ voters, alive int }

func countVotes(members []Standing) (v votes) {
	for _, m := range members {
		if m.Voter {
			v.voters++
			if m.Alive {
				v.alive++
			}
		}
	}
	return v
}

func (v votes) needed() int   { return v.voters/2 + 1 }
func (v votes) decides() bool { return v.alive >= v.needed() }

func (v votes) String() string {
	return fmt.Sprintf("%s, %d alive", plural(v.voters, "voter"), v.alive)
}

// left says how many are there after a change.
func (v votes) left() string {
	return fmt.Sprintf("%s, of which %s alive", plural(v.voters, "voter"), are(v.alive))
}

// outlook says whether writes go on, and what they bear.
func (v votes) outlook() string {
	switch spare := v.alive - v.needed(); {
	case spare < 0:
		return "writes would stop"
	case v.voters == 1:
		return "writes go on, and stop when this one fails"
	case spare == 0:
		return "writes go on, and stop when one more fails"
	case spare == 1:
		return "writes go on, also when one more fails"
	default:
		return fmt.Sprintf("writes go on, also when %d more fail", spare)
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

func are(n int) string {
	if n == 1 {
		return "1 is"
	}
	return strconv.Itoa(n) + " are"
}

func noMember(id uint64) error {
	return &kv.Error{Op: "member", Kind: kv.NotFound, Cause: "No such member: " + strconv.FormatUint(id, 16)}
}
