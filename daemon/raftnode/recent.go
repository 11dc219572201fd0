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

// add notes something that took so long until now.
func (r *recent) add(now time.Time, took time.Duration) { r.note(now, took, now) }

// spread is add for something that is usual in each second in which it went on.
func (r *recent) spread(now time.Time, took time.Duration) { r.note(now, took, now.Add(-took)) }

func (r *recent) note(now time.Time, took time.Duration, from time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.number(now)
	for number := max(r.number(from), last-recentSeconds+1, 0); number < last; number++ {
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

// habit is what recent says. The times are 0 until something has happened in recentOften seconds.
type habit struct {
	usual   time.Duration // the middle one of the means of the seconds
	high    time.Duration // what was reached in recentOften seconds
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
	if len(means) >= recentOften {
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
	h.recent.spread(time.Now(), time.Duration(seconds*float64(time.Second)))
}
