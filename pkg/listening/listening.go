// Package listening keeps a server listening where it should: at addresses, at those of interfaces, and at unix
// sockets, which come and go while it runs; those of a container engine come later than the host starts.
//
// It knows places, and when a listener is to be opened and closed. It does not know what is served there.
//
//	places, err := listening.Parse("docker0:53")
//	...
//	follower := listening.New(listening.Config[net.Listener]{Places: places, Open: open, Serve: serve, Doing: "listening"})
//	follower.Run(ctx)
package listening

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/pkg/pace"
)

// DefaultInterval is how often it is seen to that a server listens where it should.
const DefaultInterval = time.Second

// Listener is what is opened at a spot, such as a net.Listener.
type Listener interface {
	Addr() net.Addr // with the port that was found for port 0
	io.Closer       // ends Serve
}

// Config says where a server listens, and how. Open and Serve are called from a goroutine for each place, but no
// two at a time for one place.
type Config[L Listener] struct {
	Places []Place

	// Open opens a listener; what fails is tried again. Taken opens one as well, and closes it unserved.
	Open func(ctx context.Context, spot Spot) (L, error)

	// Serve serves a listener until that is closed.
	Serve func(ctx context.Context, listener L)

	// Seen is called for each open listener before it is served, and each time that it is seen to be where it
	// should, so that what hangs on the spot's networks can be followed. nil: nobody wants to know.
	Seen func(listener L, spot Spot)

	Doing    string        // for the log: "listening"
	Interval time.Duration // 0: DefaultInterval
	Log      *slog.Logger  // nil: silent
}

// Follower listens at places, and follows them. Its methods may be called from any goroutine.
type Follower[L Listener] struct {
	cfg Config[L]

	mu    sync.Mutex // guards the fields below
	known map[string]state
}

// state is what is known of a spot, or of a place whose spots are not known.
type state struct {
	at  string // the address listened at, "" while it cannot be had
	err error
}

// New returns a follower that listens nowhere yet.
func New[L Listener](cfg Config[L]) *Follower[L] {
	cfg.Interval = cmp.Or(cfg.Interval, DefaultInterval)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Follower[L]{cfg: cfg, known: map[string]state{}}
}

// Taken returns an error if another process has one of the addresses or sockets now; it is called before Run. What
// cannot be had for another reason, as an address or interface that is yet to come, is no error.
func (f *Follower[L]) Taken() error {
	for _, p := range f.cfg.Places {
		wanted, _ := p.spots() // an interface that is not there yet is no error either
		for _, spot := range wanted {
			l, err := f.cfg.Open(context.Background(), spot)
			if err == nil {
				err = l.Close()
			}
			if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
				return fmt.Errorf("%s: %w", p.text, err)
			}
		}
	}
	return nil
}

// Run listens at all places until ctx ends, and returns when everything is closed and served to its end. What it
// cannot listen at it tries again. It is called once.
func (f *Follower[L]) Run(ctx context.Context) {
	var following sync.WaitGroup
	for _, p := range f.cfg.Places {
		following.Go(func() { f.attend(ctx, p) })
	}
	following.Wait()
}

// attend listens where p is, and follows it, until ctx ends.
func (f *Follower[L]) attend(ctx context.Context, p Place) {
	open := map[string]L{}
	var serving sync.WaitGroup
	defer func() {
		for _, l := range open {
			l.Close()
		}
		serving.Wait()
	}()
	f.look(ctx, p, open, &serving)
	for range pace.Every(ctx.Done(), f.cfg.Interval) {
		f.look(ctx, p, open, &serving)
	}
}

// look closes what is no longer a spot of p, and opens what is one now.
func (f *Follower[L]) look(ctx context.Context, p Place, open map[string]L, serving *sync.WaitGroup) {
	wanted, err := p.spots()
	if p.iface != "" {
		f.note(ctx, p.text, "", err)
	}
	maps.DeleteFunc(open, func(name string, l L) bool {
		if _, still := wanted[name]; still && !p.lost() {
			return false
		}
		l.Close()
		f.note(ctx, name, "", nil)
		f.cfg.Log.Info("no longer "+f.cfg.Doing, "address", name)
		return true
	})
	for name, spot := range wanted {
		l, is := open[name]
		if is {
			f.seen(l, spot)
			continue
		}
		l, err := f.cfg.Open(ctx, spot)
		if err != nil {
			f.note(ctx, name, "", err)
			continue
		}
		f.seen(l, spot)
		open[name] = l
		at := l.Addr().String()
		f.note(ctx, name, at, nil)
		f.cfg.Log.Info(f.cfg.Doing, "for", p.text, "address", at)
		serving.Go(func() { f.cfg.Serve(ctx, l) })
	}
}

func (f *Follower[L]) seen(l L, spot Spot) {
	if f.cfg.Seen != nil {
		f.cfg.Seen(l, spot)
	}
}

// note keeps what is known of a spot or a place, and tells the log of what is wrong when it is new. Neither at nor
// err: there is nothing to know any more.
func (f *Follower[L]) note(ctx context.Context, name, at string, err error) {
	f.mu.Lock()
	before := f.known[name]
	if at == "" && err == nil {
		delete(f.known, name)
	} else {
		f.known[name] = state{at, err}
	}
	f.mu.Unlock()
	if err != nil && (before.err == nil || before.err.Error() != err.Error()) && ctx.Err() == nil {
		f.cfg.Log.Warn("not "+f.cfg.Doing+", trying again", "address", name, "err", err)
	}
}

// Whereabouts returns the addresses listened at, and why others are not, each in a settled order.
func (f *Follower[L]) Whereabouts() (at, waiting []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.known)) {
		if s := f.known[name]; s.err != nil {
			waiting = append(waiting, name+": "+s.err.Error())
		} else {
			at = append(at, s.at)
		}
	}
	return at, waiting
}
