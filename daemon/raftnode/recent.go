package raftnode

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// recentSeconds is how far back recent looks.
	recentSeconds = 30
	// recentOften is in how many of those seconds something must have happened to count as a habit: one
	// long stop of a process, or of a disk, is none.
	recentOften = 3
)

// recent knows how long something took lately. It is safe for concurrent use.
type recent struct {
	began time.Time

	mu      sync.Mutex
	seconds [recentSeconds]recentSecond
}

type recentSecond struct {
	number  int64 // seconds since began
	count   int
	sum     time.Duration
	longest time.Duration
}

func newRecent() *recent {
	r := &recent{began: time.Now()}
	for i := range r.seconds {
		r.seconds[i].number = -1
	}
	return r
}

// add notes something that took so long until now. It counts for each second in which it went on.
func (r *recent) add(now time.Time, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.number(now)
	for number := max(r.number(now.Add(-took)), last-recentSeconds+1, 0); number < last; number++ {
		s := r.second(number)
		s.count++
		s.sum += took
	}
	s := r.second(last)
	s.count++
	s.sum += took
	s.longest = max(s.longest, took)
}

func (r *recent) number(t time.Time) int64 { return int64(t.Sub(r.began) / time.Second) }

// second returns the place of a second, emptied if another one was there.
func (r *recent) second(number int64) *recentSecond {
	s := &r.seconds[number%recentSeconds]
	if s.number < number {
		*s = recentSecond{number: number}
	}
	return s
}

// habit is what recent says.
type habit struct {
	usual   time.Duration // the middle one of the means of the seconds; 0 if nothing happened
	high    time.Duration // what was reached in recentOften seconds; 0 if nothing happened in as many
	seconds int           // in which something happened
}

func (r *recent) look(now time.Time) habit {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.number(now)
	var means, peaks []time.Duration
	for _, s := range r.seconds {
		if s.number < 0 || s.number <= last-recentSeconds || s.number > last || s.count == 0 {
			continue
		}
		means = append(means, s.sum/time.Duration(s.count))
		if s.longest > 0 {
			peaks = append(peaks, s.longest)
		}
	}
	h := habit{seconds: len(means)}
	slices.Sort(means)
	slices.Sort(peaks)
	if len(means) > 0 {
		h.usual = means[len(means)/2]
	}
	if len(peaks) >= recentOften {
		h.high = peaks[len(peaks)-recentOften]
	}
	return h
}

// remembering is a histogram that knows what it has taken in lately.
type remembering struct {
	prometheus.Histogram
	recent *recent
}

// Observe implements prometheus.Observer: something has just ended that took so many seconds.
func (h remembering) Observe(seconds float64) {
	h.Histogram.Observe(seconds)
	h.recent.add(time.Now(), time.Duration(seconds*float64(time.Second)))
}
