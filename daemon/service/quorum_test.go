package service

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

// standings reads "m1+ m2- m3+learner": alive, dead, and without a vote.
func standings(text string) []Standing {
	var members []Standing
	for i, word := range strings.Fields(text) {
		name, learner := strings.CutSuffix(word, "learner")
		members = append(members, Standing{
			ID: uint64(i + 1), Name: name[:len(name)-1], Voter: !learner, Alive: strings.HasSuffix(name, "+"),
		})
	}
	return members
}

func TestAChangeIsForeseenInWords(t *testing.T) {
	for _, c := range []struct {
		members, change string
		who             uint64
		text            string
		loses, stuck    bool
	}{
		{"m1+ m2+ m3+", "remove", 3, "3 voters, 3 alive: removing m3 leaves 2 voters, of which 2 are alive: writes go on, and stop when one more fails", false, false},
		{"m1+ m2- m3+", "remove", 3, "3 voters, 2 alive: removing m3 leaves 2 voters, of which 1 is alive: writes would stop", true, false},
		{"m1+ m2- m3+", "remove", 2, "3 voters, 2 alive: removing m2 leaves 2 voters, of which 2 are alive: writes go on, and stop when one more fails", false, false},
		{"m1+ m2- m3-", "remove", 3, "3 voters, 1 alive: 2 are needed, so that no change can be made until more of them are back", true, true},
		{"m1+ m2+ m3+ m4+ m5+", "remove", 1, "5 voters, 5 alive: removing m1 leaves 4 voters, of which 4 are alive: writes go on, also when one more fails", false, false},
		{"m1+ m2+", "remove", 2, "2 voters, 2 alive: removing m2 leaves 1 voter, of which 1 is alive: writes go on, and stop when this one fails", false, false},
		{"m1+", "remove", 1, "1 voter, 1 alive: removing m1 leaves nobody who votes: there would be no cluster", true, false},
		{"m1+ m2+ m3+ m4-learner", "remove", 4, "3 voters, 3 alive: removing m4, which has no vote, leaves all votes as they are: writes go on, also when one more fails", false, false},
		{"m1+ m2+ m3+", "add", 0, "3 voters, 3 alive: m9 joins without a vote and gets one when it has caught up, which makes 4 voters, of which 4 are alive: writes go on, also when one more fails", false, false},
		{"m1+ m2-", "add", 0, "2 voters, 1 alive: 2 are needed, so that no change can be made until more of them are back", false, true},
		{"m1+", "add-learner", 0, "1 voter, 1 alive: m9 joins without a vote, which leaves all votes as they are: writes go on, and stop when this one fails", false, false},
		{"m1+ m2+learner", "promote", 2, "1 voter, 1 alive: promoting m2 makes 2 voters, of which 2 are alive: writes go on, and stop when one more fails", false, false},
		{"m1+ m2-learner", "promote", 2, "1 voter, 1 alive: promoting m2 makes 2 voters, of which 1 is alive: writes would stop", true, false},
		{"m1+ m2+ m3+", "demote", 1, "3 voters, 3 alive: demoting m1 leaves 2 voters, of which 2 are alive: writes go on, and stop when one more fails", false, false},
		{"m1+ m2+ m3+ m4+ m5+ m6+ m7+ m8+", "remove", 8, "8 voters, 8 alive: removing m8 leaves 7 voters, of which 7 are alive: writes go on, also when 3 more fail", false, false},
	} {
		change, ok := ParseChange(c.change)
		if !ok {
			t.Fatalf("%q is no change", c.change)
		}
		got, err := WhatIf(standings(c.members), change, Standing{ID: c.who, Name: "m9"})
		if err != nil || got.Text != c.text || got.LosesQuorum != c.loses || got.Stuck != c.stuck {
			t.Errorf("%s, %s %d: %+v, %v, want %q, loses %v, stuck %v", c.members, c.change, c.who, got, err, c.text, c.loses, c.stuck)
		}
	}
}

func TestWhatIsNoChangeIsRefused(t *testing.T) {
	members := standings("m1+ m2+learner")
	for _, c := range []struct {
		change Change
		who    uint64
		kind   kv.Kind
	}{
		{RemoveMember, 9, kv.NotFound}, {PromoteMember, 9, kv.NotFound}, {DemoteMember, 9, kv.NotFound},
		{PromoteMember, 1, kv.Invalid}, {DemoteMember, 2, kv.Invalid}, {0, 1, kv.Invalid}, {DemoteMember + 1, 1, kv.Invalid},
	} {
		if _, err := WhatIf(members, c.change, Standing{ID: c.who}); !kv.Is(err, c.kind) {
			t.Errorf("change %d of %d: %v, want kind %v", c.change, c.who, err, c.kind)
		}
	}
	if _, ok := ParseChange("replace"); ok {
		t.Error("replace is taken for a change")
	}
}

// TestTheForecastIsWhatTheVotesAmountTo compares every cluster of up to four members and every change
// with what one who counts would say.
func TestTheForecastIsWhatTheVotesAmountTo(t *testing.T) {
	for size := 1; size <= 4; size++ {
		for bits := range 1 << (2 * size) {
			var members []Standing
			for i := range size {
				members = append(members, Standing{ID: uint64(i + 1), Voter: bits>>(2*i)&1 == 0, Alive: bits>>(2*i+1)&1 == 0})
			}
			for change := AddVoter; change <= DemoteMember; change++ {
				for id := range uint64(size) {
					who := Standing{ID: id + 1}
					if change <= AddLearner {
						who.ID = 99
					}
					got, err := WhatIf(members, change, who)
					if err != nil {
						continue
					}
					voters, alive := 0, 0
					for _, m := range members {
						votes := m.Voter
						if m.ID == who.ID {
							votes = change == PromoteMember || votes && change != RemoveMember && change != DemoteMember
						}
						if votes {
							voters++
							if m.Alive {
								alive++
							}
						}
					}
					if change == AddVoter {
						voters, alive = voters+1, alive+1
					}
					if loses := 2*alive <= voters; got.LosesQuorum != loses || got.Voters != voters || got.Alive != alive {
						t.Fatalf("%s: change %d of %d: %+v, want %d of %d alive, loses %v", fmt.Sprint(members), change, who.ID, got, alive, voters, loses)
					}
				}
			}
		}
	}
}

func TestTheQuorumIsToldInASentence(t *testing.T) {
	for members, want := range map[string]string{
		"m1+":                "1 voter, 1 alive, 1 is needed: writes go on, and stop when this one fails",
		"m1+ m2- m3+":        "3 voters, 2 alive, 2 are needed: writes go on, and stop when one more fails",
		"m1+ m2+ m3+":        "3 voters, 3 alive, 2 are needed: writes go on, also when one more fails",
		"m1+ m2- m3-":        "3 voters, 1 alive, 2 are needed: nothing can be written until more of them are back",
		"m1+ m2- m3+learner": "2 voters, 1 alive, 2 are needed: nothing can be written until more of them are back",
	} {
		if got := Quorum(standings(members)); got != want {
			t.Errorf("%s: %q, want %q", members, got, want)
		}
	}
}
