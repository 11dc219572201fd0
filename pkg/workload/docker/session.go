package docker

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
)

const (
	// asksMax containers are asked about at a time. Events, and what is learnt of the others, are
	// acted on meanwhile: a container that is being started keeps the engine from answering.
	asksMax = 8

	// askAgain is how long after a failure a container is asked about again.
	askAgain = time.Second

	// roundsForAll is the number of comparisons over which every container is looked at once,
	// also those that the engine's list shows unchanged.
	roundsForAll = 15

	// absences are the lists in a row that must lack a container of which the engine tells nothing,
	// before it counts as gone.
	absences = 2

	// headMax is how long the list waits for the event stream to be open. Some engines open it with
	// the first event; what happens until then comes again from the past that they keep.
	headMax = 500 * time.Millisecond

	// listPatience is how much longer a list may take than other answers.
	listPatience = 6
)

// session is one connection to the engine. Its fields belong to the goroutine of Run; what asks
// the engine runs beside it and answers through channels.
type session struct {
	*follower
	api    *api
	group  sync.WaitGroup
	broken chan error // why the session is over; the first reason counts

	queue   []string          // to be asked about, oldest first; never twice
	asking  map[string]*query // queued or asked about now
	flying  int               // of these, asked about now
	answers chan answer
	later   map[string]time.Time // when to ask again about a container after a failure

	lists     chan []summary
	listing   bool
	listAgain bool            // something happened meanwhile
	whole     bool            // everything that the first list named was asked about
	first     map[string]bool // what has not been, until whole
	told      map[string]bool // containers that events were about since the list before; nil before the first
	proving   atomic.Bool     // a ping is under way, to tell a container that hangs from an engine that does
}

// query is about one container.
type query struct {
	flying  bool
	again   bool   // something happened meanwhile
	died    bool   // and it was the end of its process: the answer may be of before
	listed  bool   // the engine's list names it
	print   string // of its line in that list
	signals []hint // to be applied once it is known that it runs
}

// answer is what came of a query.
type answer struct {
	id      string
	running running
	runs    bool
	exit    int // its exit code, if it does not run; 0 if it is gone
	err     error
	listed  bool
	print   string
}

// The most signals that are kept for a container of which nothing else is known yet.
const signalsMax = 16

// session follows the engine over one event stream until that ends or ctx does. It subscribes and
// lists; an event only says which container to look at, and what the engine answers about it
// counts. synced says that a full snapshot was reached.
func (f *follower) session(ctx context.Context) (synced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{
		follower: f,
		broken:   make(chan error, 1),
		asking:   map[string]*query{},
		answers:  make(chan answer, asksMax),
		later:    map[string]time.Time{},
		lists:    make(chan []summary, 1),
	}
	defer s.group.Wait()
	defer cancel()

	opening, opened := context.WithTimeout(ctx, f.cfg.Timeout)
	s.group.Go(func() {
		defer opened()
		s.api, err = f.api.connect(opening)
	})
	f.mourn(opening)
	s.group.Wait()
	if err != nil {
		return false, lost("ping", err)
	}
	opening, opened = context.WithTimeout(ctx, headMax)
	s.group.Go(func() { s.tell(s.listen(ctx, opened)) })
	f.mourn(opening)
	s.list(ctx)
	err = s.loop(ctx)
	return s.whole, err
}

// loop acts on what comes until the session is over.
func (s *session) loop(ctx context.Context) error {
	relist := time.NewTicker(s.cfg.Relist)
	defer relist.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		next := s.expire(time.Now())
		s.ask(ctx)
		s.settle()
		var out chan<- workload.Snapshot
		if s.whole || s.hasSent {
			out = s.pending()
		}
		if s.whole {
			look.Stop()
		}
		var wake <-chan time.Time
		if !next.IsZero() {
			wake = time.After(time.Until(next))
		}
		var err error
		select {
		case out <- s.next:
			s.delivered()
		case <-s.hints.wake:
			s.takeHints(ctx)
		case a := <-s.answers:
			err = s.take(ctx, a)
		case list := <-s.lists:
			s.takeHints(ctx)
			s.compare(list)
			if s.listAgain {
				s.list(ctx)
			}
		case <-relist.C:
			s.list(ctx)
		case <-look.C:
			s.bury()
		case <-wake:
		case err = <-s.broken:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// expire does what the time has come for and returns when it has come for more; zero: for nothing.
func (s *session) expire(now time.Time) (next time.Time) {
	next = s.outlived(now)
	if at := s.release(now); next.IsZero() || !at.IsZero() && at.Before(next) {
		next = at
	}
	for id, at := range s.later {
		switch {
		case !now.Before(at):
			delete(s.later, id)
			s.want(id)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	return next
}

// listen turns the engine's events into hints until the stream ends. It calls opened when the stream is
// open, or never will be.
func (s *session) listen(ctx context.Context, opened func()) error {
	begun := time.Now()
	stream, err := s.api.events(ctx, s.hints.resume(begun))
	opened()
	if err != nil {
		return lost("event stream", err)
	}
	defer stream.close()
	for {
		e, err := stream.next()
		switch {
		case err == nil:
			s.hints.add(e, begun)
		case errors.Is(err, errEvent):
			s.hints.misunderstood()
		default:
			return lost("event stream", err)
		}
	}
}

// list asks for all containers that run, unless that is under way.
func (s *session) list(ctx context.Context) {
	if s.listing {
		s.listAgain = true
		return
	}
	s.listing, s.listAgain = true, false
	s.group.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, listPatience*s.cfg.Timeout)
		defer cancel()
		list, err := s.api.list(ctx)
		if err != nil {
			s.tell(lost("list", err))
			return
		}
		s.lists <- list
	})
}

// compare has each container looked at that the list shows otherwise than it was before, or not
// at all, and in turn some of the others.
func (s *session) compare(list []summary) {
	s.listing = false
	listed := make(map[string]bool, len(list))
	missed := 0
	for _, line := range list {
		if line.ID == "" {
			continue
		}
		listed[line.ID] = true
		print, isYoung := line.print()
		c := s.known[line.ID]
		if c != nil && c.print == print && !isYoung && !s.api.terse && s.whole {
			continue
		}
		isNews := c == nil || c.print != "" && c.print != print
		if isNews && s.told != nil && !s.told[line.ID] {
			missed++
		}
		q := s.want(line.ID)
		q.listed, q.print = true, print
	}
	for id, c := range s.known {
		if listed[id] {
			continue
		}
		if c.absent++; c.absent == 1 && s.told != nil && !s.told[id] {
			missed++
		}
		s.want(id)
	}
	for id := range s.failed { // it may be gone
		s.want(id)
	}
	s.drop(listed)
	s.lookAround()
	if s.first == nil {
		s.first = make(map[string]bool, len(s.asking))
		for id := range s.asking {
			s.first[id] = true
		}
	}
	s.told = map[string]bool{}
	s.note(func(status *counters) { status.relists++; status.missed += missed })
}

// drop forgets the containers that the engine neither lists nor tells about.
func (s *session) drop(listed map[string]bool) {
	for id, c := range s.known {
		if c.absent > absences {
			s.learn(answer{id: id})
		}
	}
	for id := range s.silent {
		if !listed[id] {
			s.learn(answer{id: id})
		}
	}
	for id := range s.later {
		if !listed[id] && s.known[id] == nil {
			delete(s.later, id)
		}
	}
}

// lookAround has those looked at that nobody has asked about for longest.
func (s *session) lookAround() {
	var ids []string
	for id := range s.known {
		if s.asking[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return s.known[a].seen.Compare(s.known[b].seen) })
	share := (len(s.known) + roundsForAll - 1) / roundsForAll
	for _, id := range ids[:min(share, len(ids))] {
		s.want(id).print = s.known[id].print
	}
}

// print returns what the line says beside how long ago things were. isYoung says that the container
// may have been started anew since the last comparison.
func (line summary) print() (text string, isYoung bool) {
	uptime, _, _ := strings.Cut(line.Status, "(")
	isYoung = strings.Contains(uptime, "econd") || strings.Contains(uptime, " a minute")
	line.Status = strings.TrimPrefix(line.Status, uptime)
	encoded, err := json.Marshal(line)
	if err != nil {
		return "", true
	}
	sum := fnv.New128a()
	sum.Write(encoded)
	return string(sum.Sum(nil)), isYoung
}

// want has a container asked about, again if that is under way.
func (s *session) want(id string) *query {
	q := s.asking[id]
	if q == nil {
		q = &query{}
		s.asking[id] = q
		s.queue = append(s.queue, id)
	} else if q.flying {
		q.again = true
	}
	return q
}

// takeHints acts on what events have said.
func (s *session) takeHints(ctx context.Context) {
	hints, all := s.hints.take()
	if all {
		s.list(ctx)
	}
	for _, h := range hints {
		c := s.known[h.id]
		// The engine connects a container to its networks before it starts it, and keeps who
		// asks about it waiting until it has. The start is an event of its own.
		if h.network && c == nil && s.asking[h.id] == nil {
			continue
		}
		if s.told != nil && len(s.told) < hintsMax {
			s.told[h.id] = true
		}
		if c != nil {
			c.print = ""
		}
		q := s.want(h.id)
		q.print = ""
		if h.died {
			q.died = q.flying
			s.died(h)
		}
		if h.signal != 0 {
			s.signalled(h)
			if len(q.signals) < signalsMax { // it may be of a run that is not known yet
				q.signals = append(q.signals, h)
			}
		}
	}
}

// ask asks about as many containers as may be asked about at a time.
func (s *session) ask(ctx context.Context) {
	for len(s.queue) > 0 && s.flying < asksMax {
		id := s.queue[0]
		s.queue = s.queue[1:]
		q := s.asking[id]
		q.flying = true
		s.flying++
		listed, print := q.listed, q.print
		s.group.Go(func() {
			a := s.inspect(ctx, id)
			a.listed, a.print = listed, print
			s.answers <- a // there is room for all that are asked at a time
		})
	}
}

func (s *session) inspect(ctx context.Context, id string) answer {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	answered, err := s.api.inspect(ctx, id)
	if isGone(err) {
		return answer{id: id}
	}
	if err != nil {
		return answer{id: id, err: lost("inspect", err)}
	}
	c, runs := read(answered)
	return answer{id: id, running: c, runs: runs, exit: answered.State.ExitCode}
}

// take takes in an answer. Its error says that the engine is gone.
func (s *session) take(ctx context.Context, a answer) error {
	q := s.asking[a.id]
	s.flying--
	delete(s.asking, a.id)
	switch {
	case a.err == nil && a.runs && q.died:
	case a.err == nil:
		s.learn(a)
		for _, sent := range q.signals {
			s.signalled(sent)
		}
	case isUnreachable(a.err):
		return a.err
	default:
		s.fail(a)
		s.later[a.id] = time.Now().Add(askAgain)
		s.prove(ctx)
	}
	if q.again {
		next := s.want(a.id)
		next.listed = q.listed
		if a.err != nil {
			next.signals = q.signals
		}
	}
	delete(s.first, a.id)
	return nil
}

// prove asks the engine for a sign of life, unless that is under way.
func (s *session) prove(ctx context.Context) {
	if !s.proving.CompareAndSwap(false, true) {
		return
	}
	s.group.Go(func() {
		defer s.proving.Store(false)
		ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
		defer cancel()
		if _, err := s.api.connect(ctx); err != nil {
			s.tell(lost("ping", err))
		}
	})
}

// tell says why the session is over.
func (s *session) tell(err error) {
	select {
	case s.broken <- err:
	default:
	}
}

// settle notes when all of the first list is known.
func (s *session) settle() {
	if s.whole || s.first == nil || len(s.first) > 0 {
		return
	}
	s.whole = true
	s.note(func(c *counters) { c.connect(nil) })
	s.cfg.Log.Info("following the engine", "engine", s.cfg.Host, "containers", len(s.known), "api", strings.TrimPrefix(s.api.base, s.api.server+"/"))
}
