package diff

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	firstSeed = flag.Uint64("seed", 1, "the first seed")
	seeds     = flag.Int("seeds", 8, "how many seeds")
	ops       = flag.Int("ops", 200, "how many operations in a sequence")
	pairs     = flag.Int("pairs", 2, "how many pairs of servers at a time")
	withAuth  = flag.Bool("auth", false, "every twentieth sequence is about access control; slow, for etcd hashes a password in each request")
	script    = flag.String("script", "", "a file of lines to perform instead of random ones")
)

// TestScript performs the lines of the file that -script names, such as a shrunk failure.
func TestScript(t *testing.T) {
	if *script == "" {
		t.Skip("no -script")
	}
	text, err := os.ReadFile(*script)
	if err != nil {
		t.Fatal(err)
	}
	if d := replay(t, strings.Split(strings.TrimSpace(string(text)), "\n")); d != nil {
		t.Error(d)
	}
}

func TestSequences(t *testing.T) {
	total := tally{explained: map[string]int{}}
	next := make(chan uint64)
	var working sync.WaitGroup
	for range *pairs {
		working.Go(func() {
			for seed := range next {
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { total.add(sequence(t, seed)) })
			}
		})
	}
	for i := range *seeds {
		next <- *firstSeed + uint64(i)
	}
	close(next)
	working.Wait()
	t.Log(total.String())
	if total.ops < longRun {
		return
	}
	for _, e := range explained {
		if total.explained[e.name] == 0 && (*withAuth || !e.auth) {
			t.Errorf("%s is said to differ, and did not in a long run: is it still so?", e.name)
		}
	}
}

// longRun is how many operations meet every explained difference.
const longRun = 150_000

func TestEveryExplainedDifferenceIsToldToUsers(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range explained {
		if !strings.Contains(string(page), "| "+e.name+" |") {
			t.Errorf("compatibility.md has no row %q", e.name)
		}
	}
}

// tally is what a run has come to.
type tally struct {
	mu                       sync.Mutex // guards the fields below
	ops, seeds, parted, slow int
	explained                map[string]int
}

func (a *tally) add(b *tally) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ops += b.ops
	a.seeds += b.seeds
	a.parted += b.parted
	a.slow += b.slow
	for name, count := range b.explained {
		a.explained[name] += count
	}
}

func (a *tally) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d operations of %d seeds; %d times the stores parted as explained, %d times the machine stood still\n", a.ops, a.seeds, a.parted, a.slow)
	for _, name := range slices.Sorted(maps.Keys(a.explained)) {
		fmt.Fprintf(&text, "%8d  %s\n", a.explained[name], name)
	}
	return text.String()
}

// sequence draws and performs one sequence, and shrinks it when it finds a difference. Where the
// stores have parted as explained it goes on with a fresh pair.
func sequence(t *testing.T, seed uint64) *tally {
	count := &tally{seeds: 1, explained: map[string]int{}}
	drawn := newDrawer(seed)
	for count.ops < *ops {
		if !stretch(t, seed, drawn, count) {
			break
		}
	}
	return count
}

// stretch is the part of a sequence that one pair of servers sees. It tells whether to go on.
func stretch(t *testing.T, seed uint64, drawn *drawer, count *tally) bool {
	r, err := newRun(t)
	defer r.stop()
	if err != nil {
		t.Error(err)
		return false
	}
	defer func() { count.add(&tally{explained: r.explained}) }()
	drawn.forget()
	var lines []string
	for count.ops < *ops {
		line := drawn.line()
		lines = append(lines, line)
		count.ops++
		s, difference, err := r.perform(line)
		switch {
		case errors.Is(err, parted{}):
			count.parted++
			return true
		case errors.Is(err, stalled{}):
			count.slow++
			return true
		case err != nil:
			t.Errorf("seed %d: %s: %v", seed, line, err)
			return false
		case difference != nil:
			r.stop()
			report(t, seed, count.ops, lines, difference)
			return false
		}
		if s != nil {
			drawn.learn(s)
		}
	}
	return true
}

// report shrinks lines and prints what is left of them.
func report(t *testing.T, seed uint64, ops int, lines []string, first *difference) {
	small, last := shrink(lines, func(lines []string) *difference { return replay(t, lines) })
	note := ""
	if last == nil {
		note, last = "(the sequence did not show it a second time)\n", first
	}
	t.Errorf("seed %d: etcd and kvd differ after\n\n%s\n\nhere: %s\n%sreplay with: go test ./e2e/diff -run TestSequences -seed %d -seeds 1 -ops %d",
		seed, strings.Join(small, "\n"), last, note, seed, ops)
}

// replay performs lines with a fresh pair and returns the first difference.
func replay(t *testing.T, lines []string) *difference {
	r, err := newRun(t)
	defer r.stop()
	if err != nil {
		t.Log(err)
		return nil
	}
	for _, line := range lines {
		_, difference, err := r.perform(line)
		if difference != nil || err != nil {
			return difference
		}
	}
	return nil
}

const shrinkMax = time.Minute

// shrink returns a shorter list of lines, or of words in them, that still fails, and how it does;
// lines and nil when it does not fail again.
func shrink(lines []string, fails func([]string) *difference) ([]string, *difference) {
	last := fails(lines)
	if last == nil {
		return lines, nil
	}
	end := time.Now().Add(shrinkMax)
	try := func(candidate []string) bool {
		if time.Now().After(end) {
			return false
		}
		d := fails(candidate)
		if d != nil {
			lines, last = candidate, d
		}
		return d != nil
	}
	for size := len(lines) / 2; size > 0; size /= 2 {
		for from := len(lines) - size; from >= 0; from -= size {
			if to := min(from+size, len(lines)); from < to {
				try(slices.Concat(lines[:from], lines[to:]))
			}
		}
	}
	for i := len(lines) - 1; i >= 0; i-- {
		for gained := true; gained; {
			gained = slices.ContainsFunc(simpler(lines[i]), func(shorter string) bool {
				candidate := slices.Clone(lines)
				candidate[i] = shorter
				return try(candidate)
			})
		}
	}
	return lines, last
}

// simpler returns line without each of its words and parameters.
func simpler(line string) []string {
	var all []string
	words := strings.Fields(line)
	for i := len(words) - 1; i > 0; i-- {
		if i > 1 && strings.ContainsAny(words[i], "=:") && !strings.HasPrefix(words[i], "~") {
			all = append(all, strings.Join(slices.Concat(words[:i], words[i+1:]), " "))
		}
		path, query, _ := strings.Cut(words[i], "?")
		parameters := strings.Split(query, "&")
		for j := range parameters {
			shorter := slices.Clone(words)
			shorter[i] = strings.TrimSuffix(path+"?"+strings.Join(slices.Concat(parameters[:j], parameters[j+1:]), "&"), "?")
			all = append(all, strings.Join(shorter, " "))
		}
	}
	return all
}
