package demo

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"
)

// stage is one performance: the processes on it, the load, and what has been seen so far.
type stage struct {
	cfg      config
	programs programs
	folder   string
	// service is the name under which all backends register. No container that happens to run
	// here may have it: the agent would register that one too.
	service string
	show    printer

	crew    crew
	members []*member
	proxy   *proxy
	load    *load     // nil before there is anything to ask
	writers []*writer // also those that have ended
	report  Report
}

// quiet is how long the load goes on after a step's expectation holds, so that failures which
// the step caused are counted with it.
const quiet = 300 * time.Millisecond

// play runs all steps, shows the result, holds it if asked to, and takes everything down again.
// The report is complete in any case; the error says why the steps could not go on.
func (s *stage) play(ctx context.Context) (Report, error) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, s.cfg.timeLimit)
	err := s.steps(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = fmt.Errorf("the demo did not end within %v: %w", s.cfg.timeLimit, err)
	}
	cancel()
	s.conclude(began, err)
	if ctx.Err() == nil {
		s.show.result(s.report)
		if s.cfg.hold && err == nil {
			s.holdUntil(ctx)
			ctx = context.WithoutCancel(ctx) // the end that was asked for is no interruption
		}
	}
	dismissErr := s.crew.dismiss()
	if ctx.Err() != nil {
		return s.report, ctx.Err()
	}
	if dismissErr != nil {
		s.report.Pass = false
	}
	return s.report, dismissErr
}

// conclude fills the report's totals.
func (s *stage) conclude(began time.Time, err error) {
	r := &s.report
	r.Seconds = time.Since(began).Seconds()
	r.Pass = err == nil
	if last := len(r.Steps) - 1; err != nil && (last < 0 || r.Steps[last].Problem != err.Error()) {
		r.Problem = err.Error()
	}
	for _, step := range r.Steps {
		r.Pass = r.Pass && step.Held
	}
	if s.load != nil {
		total := s.load.now()
		r.Requests, r.Failed = total.requests, total.failed
		r.Answers, _ = s.load.totals()
	}
	for _, w := range s.writers {
		acknowledged, failed, failure := w.counts()
		r.Writes += acknowledged
		r.WritesFailed += failed
		r.WriteFailure = cmp.Or(failure, r.WriteFailure)
	}
	if !r.Pass {
		r.Kept = s.folder
	}
}

func (s *stage) holdUntil(ctx context.Context) {
	s.show.line("")
	s.show.line("kept running until Ctrl-C:")
	s.show.line("  %s --endpoints %s ls --recursive /services", s.programs.kvctl, s.endpoints())
	s.show.line("  curl -i %s", s.proxy.url)
	s.show.line("  less %s", s.proxy.config)
	<-ctx.Done()
}

// step is one act and what it should lead to.
type step struct {
	name     string
	expected string        // a word or two
	within   time.Duration // the expectation must hold by then
	patience time.Duration // how much longer held may take to see everything that belongs to the step
	failures int           // requests that may fail meanwhile

	// act starts it. The step's time runs from then, unless act returns another moment.
	act func(ctx context.Context) (since time.Time, err error)
	// held reports whether the expectation holds, and since when.
	held func() (at time.Time, ok bool)
	// check says what else is wrong once it holds; nil for nothing to look at. It may take checkMax.
	check func(ctx context.Context) error
}

// checkMax is how long the check of a step may take.
const checkMax = 5 * time.Second

// allowed is how long something that is to take d may take on this machine.
func (s *stage) allowed(d time.Duration) time.Duration {
	return time.Duration(float64(d) * s.cfg.slack)
}

// promise puts what is expected into words.
func (st step) promise(loaded bool) string {
	text := fmt.Sprintf("%s within %g s", st.expected, st.within.Seconds())
	switch {
	case !loaded:
		return text
	case st.failures == 0:
		return text + ", no failures"
	}
	return fmt.Sprintf("%s, at most %d failed", text, st.failures)
}

// perform runs one step and reports it. An error ends the demo; an expectation that does not
// hold lets it go on.
func (s *stage) perform(ctx context.Context, st step) error {
	var before counts
	if s.load != nil {
		before = s.load.mark()
	}
	st.within = s.allowed(st.within)
	result := Step{Name: st.name, Expected: st.promise(s.load != nil)}
	since, actErr := time.Now(), error(nil)
	if moment, err := st.act(ctx); err != nil {
		actErr = err
	} else if !moment.IsZero() {
		since = moment
	}
	var at time.Time
	if actErr == nil {
		actErr = s.crew.await(ctx, time.Until(since.Add(st.within+st.patience)), func() (ok bool) {
			at, ok = st.held()
			return ok
		})
	}
	switch {
	case actErr != nil:
		at = time.Now()
		result.Problem = actErr.Error()
	case at.Sub(since) > st.within:
		result.Problem = "too late"
	case st.check != nil:
		if err := s.verify(ctx, st); err != nil {
			result.Problem = err.Error()
		}
	}
	result.ObservedMS = max(0, float64(at.Sub(since).Microseconds())/1000)
	if s.load != nil {
		pause(ctx, quiet)
		seen := s.load.now().minus(before)
		result.Requests, result.Failed = seen.requests, seen.failed
		if seen.failed > st.failures && result.Problem == "" {
			_, last := s.load.totals()
			result.Problem = fmt.Sprintf("%d requests failed, at most %d may; the last: %s", seen.failed, st.failures, last)
		}
	}
	result.Held = result.Problem == ""
	s.report.Steps = append(s.report.Steps, result)
	s.show.step(result)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.crew.check()
}

func (s *stage) verify(ctx context.Context, st step) error {
	ctx, cancel := context.WithTimeout(ctx, s.allowed(checkMax))
	defer cancel()
	return st.check(ctx)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// startLoad begins to ask the proxy.
func (s *stage) startLoad(ctx context.Context) {
	s.load = newLoad(s.proxy.url)
	s.background(ctx, s.load.run)
}

// background runs work in a goroutine. stop ends its context and waits for it; so does the end of the
// demo.
func (s *stage) background(ctx context.Context, work func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { work(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	s.crew.later(func() error { stop(); return nil })
	return stop
}

// freePorts returns n loopback ports that nobody listens on now.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer listener.Close() // all at the end, so that no port is found twice
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

func (s *stage) file(names ...string) string {
	return filepath.Join(append([]string{s.folder}, names...)...)
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
