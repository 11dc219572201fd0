package raftnode

import "testing"

func TestAForecastSaysWhatAChangeDoesToTheQuorum(t *testing.T) {
	voters := func(alive ...bool) []LiveVoter {
		list := make([]LiveVoter, len(alive))
		for i, a := range alive {
			list[i] = LiveVoter{ID: ID(i + 1), Name: "m" + ID(i+1).String(), Alive: a}
		}
		return list
	}
	for _, c := range []struct {
		voters []LiveVoter
		change Change
		loses  bool
		want   string
	}{
		{voters(true, false, true), Change{Remove: 3}, true,
			"3 voters, 2 alive: removing m3 leaves 2 voters, of which 1 is alive and 2 are needed: writes would stop"},
		{voters(true, false, true), Change{Remove: 2}, false,
			"3 voters, 2 alive: removing m2 leaves 2 voters, of which 2 are alive and 2 are needed: writes go on, but would stop with the next failure"},
		{voters(true, true, true), Change{Remove: 1}, false,
			"3 voters, 3 alive: removing m1 leaves 2 voters, of which 2 are alive and 2 are needed: writes go on, but would stop with the next failure"},
		{voters(true), Change{Remove: 1}, true, "1 voter, 1 alive: removing m1 leaves 0 voters: there would be no cluster"},
		{voters(true), Change{Add: 2}, false,
			"1 voter, 1 alive: adding 2 makes 2 voters, of which 2 are alive and 2 are needed: writes go on, but would stop with the next failure"},
		{voters(true, true), Change{Add: 3}, false,
			"2 voters, 2 alive: adding 3 makes 3 voters, of which 3 are alive and 2 are needed: writes go on, also after 1 more failure"},
		{voters(true, false), Change{Add: 3}, false,
			"2 voters, 1 alive: adding 3 makes 3 voters, of which 2 are alive and 2 are needed: writes go on, but would stop with the next failure"},
		{voters(true, true, true, true, true), Change{Remove: 5}, false,
			"5 voters, 5 alive: removing m5 leaves 4 voters, of which 4 are alive and 3 are needed: writes go on, also after 1 more failure"},
	} {
		if got := Foresee(c.voters, c.change); got.Text != c.want || got.Loses != c.loses {
			t.Errorf("%+v: %t, %q\nwant %t, %q", c.change, got.Loses, got.Text, c.loses, c.want)
		}
	}
}
