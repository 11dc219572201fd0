package gateway

import (
	"bytes"
	"container/list"
	"context"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

const (
	answerAgeMax  = 5 * time.Second // of an answer from memory
	mortalAgeMax  = time.Second     // of one in which something has a time to live
	cachedShare   = 8               // an answer takes no more than this part of all the room
	cachedMost    = 1 << 20         // and no more than this
	entryOverhead = 512             // bytes that it takes to know an answer
)

// cache holds answers of the cluster, and gives them again while they are true. It follows each key that a rule
// lets somebody read, and all below it, with one watch, from the first read on.
//
//	index      the store's when an answer was made
//	progress   up to which a watch has told of all changes below its key
//
// An answer is true at its index and, as long as no change of it was told, at progress: the later of the two is
// the index that it is given with. It is given to whoever was told no later one, and not when its watch was
// interrupted since it was made. An answer may be kept only if it is not older than what was told already, or a
// change that it lacks would never be noticed.
//
// It is safe for concurrent use.
type cache struct {
	max     int64
	follows []*follow

	mu      sync.Mutex // guards the fields below, and those of follows and entries
	entries map[variant]*entry
	anchors btree.Map[string, []*entry] // by anchor
	recent  *list.List                  // of *entry, the last used first
	bytes   int64
	changed kv.Index // of the last change that was seen here
}

// follow is a watch on a key and all below it.
type follow struct {
	key      string
	started  bool
	watch    *kvclient.RelayedWatch // nil while there is none
	progress kv.Index
}

// entry is an answer.
type entry struct {
	variant variant
	anchor  string // a change of it, above or below it, is one of the answer
	header  http.Header
	status  int
	body    []byte
	missing *etcdv2.Error // what body says, of 404
	index   kv.Index
	at      time.Time
	mortal  bool
	follow  *follow
	watch   *kvclient.RelayedWatch // under which it was made
	cuts    uint64                 // of watch, when it was asked for
	use     *list.Element
}

// ticket is drawn before an answer is asked for that may be kept.
type ticket struct {
	follow *follow
	watch  *kvclient.RelayedWatch
	cuts   uint64
}

func newCache(max int64, keys []string) *cache {
	c := &cache{max: max, entries: map[variant]*entry{}, recent: list.New()}
	for _, key := range keys {
		c.follows = append(c.follows, &follow{key: key})
	}
	return c
}

// of returns the follow that tells of all changes of what is at a key, nil if there is none.
func (c *cache) of(key string) *follow {
	at := slices.IndexFunc(c.follows, func(f *follow) bool {
		return (key == f.key || kv.Below(key, f.key)) && !kv.HiddenBelow(key, f.key)
	})
	if at < 0 {
		return nil
	}
	return c.follows[at]
}

// mostBytes is the length of the longest answer that is kept.
func (c *cache) mostBytes() int64 { return min(cachedMost, c.max/cachedShare) }

// begin draws a ticket for an answer about a key. first is a follow that has to be started, nil for none.
func (c *cache) begin(key string) (t ticket, first *follow) {
	f := c.of(key)
	if f == nil {
		return ticket{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.started {
		f.started, first = true, f
	}
	if f.watch == nil {
		return ticket{}, first
	}
	cuts, cut := f.watch.Cuts()
	if cut {
		return ticket{}, first
	}
	return ticket{f, f.watch, cuts}, first
}

// valid reports whether nothing has interrupted the watch since the ticket was drawn. c.mu is held.
func (t ticket) valid() bool {
	if t.follow == nil || t.follow.watch != t.watch {
		return false
	}
	cuts, cut := t.watch.Cuts()
	return !cut && cuts == t.cuts
}

// hit is an answer from memory.
type hit struct {
	status int
	header http.Header // shared: read only
	body   []byte      // shared: read only
	index  kv.Index
}

// get returns an answer for who was told seen.
func (c *cache) get(v variant, seen kv.Index, now time.Time) (hit, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[v]
	if e == nil {
		return hit{}, false
	}
	age := now.Sub(e.at)
	if !(ticket{e.follow, e.watch, e.cuts}).valid() || age > answerAgeMax || e.mortal && age > mortalAgeMax {
		c.remove(e)
		return hit{}, false
	}
	index := max(e.index, e.follow.progress)
	if index < seen {
		return hit{}, false
	}
	c.recent.MoveToFront(e.use)
	h := hit{e.status, e.header, e.body, index}
	if e.missing != nil {
		missing := *e.missing
		missing.Index = index
		h.body = append(etcdv2.AppendError(nil, &missing), '\n')
	}
	return h, true
}

// put keeps an answer that was asked for at a time with a ticket, if it may be kept.
func (c *cache) put(t ticket, v variant, asked time.Time, status int, header http.Header, body []byte) {
	e := &entry{variant: v, anchor: v.key, status: status, header: header, body: body, at: asked,
		follow: t.follow, watch: t.watch, cuts: t.cuts, index: number(header, etcdv2.HeaderIndex)}
	if t.follow == nil || e.index == 0 || int64(len(body)) > c.mostBytes() || !e.understand() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.valid() || e.index < max(c.changed, t.follow.progress) {
		return
	}
	if old := c.entries[v]; old != nil {
		if old.index > e.index {
			return
		}
		c.remove(old)
	}
	c.entries[v] = e
	e.use = c.recent.PushFront(e)
	there, _ := c.anchors.Get(e.anchor)
	c.anchors.Set(e.anchor, append(there, e))
	for c.bytes += e.size(); c.bytes > c.max; {
		c.remove(c.recent.Back().Value.(*entry))
	}
}

// understand finds out what the answer hangs on, and reports whether it can be kept.
func (e *entry) understand() bool {
	switch e.status {
	case http.StatusOK:
		// Inside a JSON string the quotes would be escaped.
		e.mortal = bytes.Contains(e.body, []byte(`"ttl":`)) || bytes.Contains(e.body, []byte(`"expiration":`)) || bytes.Contains(e.body, []byte(`"lease":`))
		return true
	case http.StatusNotFound:
		var missing etcdv2.Error
		if json.Unmarshal(e.body, &missing) != nil || missing.Code != etcdv2.CodeKeyNotFound || missing.Index != e.index {
			return false
		}
		e.missing, e.anchor = &missing, kv.Clean(missing.Cause)
		if again := append(etcdv2.AppendError(nil, &missing), '\n'); !bytes.Equal(again, e.body) {
			return false
		}
		// What is made beside the way to the key changes the cause, and above it nobody watches.
		within := e.anchor == e.follow.key || kv.Below(e.anchor, e.follow.key)
		return within && (e.anchor == e.variant.key || kv.Below(e.variant.key, e.anchor))
	}
	return false
}

func (e *entry) size() int64 {
	return int64(len(e.body)+len(e.variant.key)+len(e.anchor)) + entryOverhead
}

// remove forgets an answer. c.mu is held.
func (c *cache) remove(e *entry) {
	if c.entries[e.variant] != e {
		return
	}
	delete(c.entries, e.variant)
	c.recent.Remove(e.use)
	c.bytes -= e.size()
	there, _ := c.anchors.Get(e.anchor)
	if there = slices.DeleteFunc(slices.Clone(there), func(other *entry) bool { return other == e }); len(there) == 0 {
		c.anchors.Delete(e.anchor)
	} else {
		c.anchors.Set(e.anchor, there)
	}
}

// change forgets what is about a key, above it or below it and older than index, because that has changed the key.
func (c *cache) change(key string, index kv.Index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = max(c.changed, index)
	c.drop(key, index)
}

// suspect forgets all that is about a key, above it or below it.
func (c *cache) suspect(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(key, math.MaxUint64)
}

// drop forgets answers as change says. c.mu is held.
func (c *cache) drop(key string, index kv.Index) {
	var old []*entry
	note := func(all []*entry) {
		for _, e := range all {
			if e.index < index {
				old = append(old, e)
			}
		}
	}
	for above := key; ; above = kv.Parent(above) {
		if all, ok := c.anchors.Get(above); ok {
			note(all)
		}
		if above == "" {
			break
		}
	}
	c.anchors.Ascend(key+"/", func(anchor string, all []*entry) bool {
		if !strings.HasPrefix(anchor, key+"/") {
			return false
		}
		note(all)
		return true
	})
	for _, e := range old {
		c.remove(e)
	}
}

// clear forgets everything, also which changes were seen.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		c.remove(e)
	}
	c.changed = 0
}

func (c *cache) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// run follows f until ctx ends. While there is no watch nothing is kept.
func (c *cache) run(ctx context.Context, store *kvclient.Client, f *follow, trouble func(error)) {
	wait := backoff.Backoff{Min: 50 * time.Millisecond, Max: 10 * time.Second}
	for ctx.Err() == nil {
		watch, err := store.RelayWatch(ctx, kv.WatchFrom{Key: f.key, Recursive: true}, "", false)
		if err == nil {
			wait.Reset()
			c.begun(f, watch)
			err = c.listen(ctx, f, watch)
			c.begun(f, nil)
			watch.Close()
		}
		if ctx.Err() == nil {
			trouble(err)
			_ = wait.Wait(ctx)
		}
	}
}

// begun has f go by watch from now on.
func (c *cache) begun(f *follow, watch *kvclient.RelayedWatch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.watch, f.progress = watch, 0
	if watch != nil {
		f.progress = watch.Index()
	}
}

// listen notes what watch tells until that ends.
func (c *cache) listen(ctx context.Context, f *follow, watch *kvclient.RelayedWatch) error {
	for {
		event, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		c.mu.Lock()
		f.progress = max(f.progress, event.Node.ModifiedIndex)
		c.drop(event.Node.Key, event.Node.ModifiedIndex)
		c.mu.Unlock()
	}
}

// number returns a header that counts something, 0 if it is absent or no number.
func number(header http.Header, name string) uint64 {
	n, err := strconv.ParseUint(header.Get(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
