package raftnode

import (
	"fmt"
	"slices"
	"strings"
)

// Change is what is to happen to the voters of a cluster.
type Change struct {
	Add    ID // becomes a voter; 0 for nobody
	Remove ID // is a member no more; 0 for nobody
}

// LiveVoter is one that decides, and whether it answers now.
type LiveVoter struct {
	ID    ID
	Name  string // "" if it has none yet
	Alive bool
}

// Forecast is what a change does to the quorum.
type Forecast struct {
	Text string // in words
	// Loses says that the voters that are alive would be too few to decide after the change.
	Loses bool
}

// Foresee tells what a change does to a cluster with these voters. A new voter counts as alive: one
// becomes a voter only after it has caught up.
func Foresee(voters []LiveVoter, change Change) Forecast {
	after := slices.DeleteFunc(slices.Clone(voters), func(v LiveVoter) bool { return v.ID == change.Remove })
	if change.Add != 0 && !slices.ContainsFunc(after, func(v LiveVoter) bool { return v.ID == change.Add }) {
		after = append(after, LiveVoter{ID: change.Add, Alive: true})
	}
	aliveBefore, aliveAfter := alive(voters), alive(after)
	f := Forecast{Loses: aliveAfter < majority(len(after)) || len(after) == 0}

	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d alive: ", count(len(voters)), aliveBefore)
	switch {
	case change.Remove != 0:
		fmt.Fprintf(&b, "removing %s leaves %s", name(voters, change.Remove), count(len(after)))
	case change.Add != 0:
		fmt.Fprintf(&b, "adding %s makes %s", name(voters, change.Add), count(len(after)))
	default:
		fmt.Fprintf(&b, "the change leaves %s", count(len(after)))
	}
	switch {
	case len(after) == 0:
		b.WriteString(": there would be no cluster")
	case f.Loses:
		fmt.Fprintf(&b, ", of which %d %s alive and %d %s needed: writes would stop", aliveAfter, are(aliveAfter), majority(len(after)), are(majority(len(after))))
	default:
		spare := aliveAfter - majority(len(after))
		fmt.Fprintf(&b, ", of which %d %s alive and %d %s needed: ", aliveAfter, are(aliveAfter), majority(len(after)), are(majority(len(after))))
		if spare == 0 {
			b.WriteString("writes go on, but would stop with the next failure")
		} else {
			fmt.Fprintf(&b, "writes go on, also after %d more %s", spare, plural(spare, "failure", "failures"))
		}
	}
	f.Text = b.String()
	return f
}

func alive(voters []LiveVoter) int {
	n := 0
	for _, v := range voters {
		if v.Alive {
			n++
		}
	}
	return n
}

func name(voters []LiveVoter, id ID) string {
	for _, v := range voters {
		if v.ID == id && v.Name != "" {
			return v.Name
		}
	}
	return id.String()
}

func count(voters int) string { return fmt.Sprintf("%d %s", voters, plural(voters, "voter", "voters")) }

func are(n int) string { return plural(n, "is", "are") }

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
