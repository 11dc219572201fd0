package service

import (
	"context"
	"slices"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Secret is a password. It never shows in logs or messages.
type Secret = command.Secret

// Credentials are what a request shows of who sends it.
type Credentials struct {
	Given    bool // something was shown, be it right or wrong
	User     string
	Password Secret
	Source   string // address of who asks, "host:port"

	// CertifiedAs is the common name of the client certificate that was shown and verified, "" for
	// none. It counts only with Config.CertUsers, and only when nothing else is given.
	CertifiedAs string
}

// Session is the store as one principal may use it: a user, or whoever gives no name. It implements
// kv.Store, where a key with a slash at its end is asked for as a directory. What it may do is looked
// up for each operation, so that a session may be kept. It is safe for concurrent use.
type Session struct {
	service *Service
	user    string // "" has given no name
	hash    Secret // of the password that was shown; "" if none was
	source  string
}

var _ kv.Store = (*Session)(nil)

// Open returns the session for a request about keys. While access control is off it costs next to
// nothing. Errors by Kind: Denied, Unavailable, Timeout.
func (s *Service) Open(ctx context.Context, c Credentials) (*Session, error) {
	if !s.state.machine.Auth().Enabled {
		return s.anybody, nil
	}
	return s.Authenticate(ctx, c)
}

// Authenticate returns the session of whoever has these credentials; while access control is off they
// may be wrong. Errors by Kind: Denied, Unavailable when too many ask at the same time, Timeout.
func (s *Service) Authenticate(ctx context.Context, c Credentials) (*Session, error) {
	auth := s.state.machine.Auth()
	if !auth.Enabled || !c.Given {
		return &Session{service: s, user: s.certified(auth, c), source: c.Source}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	user, _ := auth.User(c.User) // one that is not there has no hash
	right, err := s.logins.check(ctx, c.User, c.Password, user.Hash, c.Source)
	switch {
	case err != nil:
		return nil, err
	case !right:
		s.audit.denied("log in", "", c.User, c.Source, "wrong user name or password")
		return nil, denied("log in", "")
	}
	return &Session{service: s, user: c.User, hash: user.Hash, source: c.Source}, nil
}

// certified returns the user that a certificate stands for, "" for none: it may be shown by who is no
// user at all.
func (s *Service) certified(auth *store.Auth, c Credentials) string {
	if !s.certUsers || !auth.Enabled || c.CertifiedAs == "" {
		return ""
	}
	if _, ok := auth.User(c.CertifiedAs); !ok {
		return ""
	}
	return c.CertifiedAs
}

func denied(operation, key string) error {
	return &kv.Error{Op: operation, Key: key, Kind: kv.Denied, Cause: "Insufficient credentials"}
}

func (c *Session) auth() *store.Auth { return c.service.state.machine.Auth() }

// deny returns the error of an operation that is not permitted, and has it noted.
func (c *Session) deny(operation, key string) error {
	c.service.audit.denied(operation, key, c.user, c.source, "no right")
	return denied(operation, key)
}

// Read implements kv.Reader. Children of a directory that may not be read are left out.
func (c *Session) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	if c.service.quorum {
		r.Quorum = true
	}
	if len(r.Only) > 0 {
		return c.readOnly(ctx, r)
	}
	key, asDir := kv.SplitDir(r.Key)
	need := store.Need{Key: key, AsDir: asDir, Below: r.Recursive}
	if auth := c.auth(); auth.Enabled && auth.Rights(c.user).Decide(need) == store.Denied {
		return kv.Result{}, c.deny("get", key)
	}
	result, err := c.service.Read(ctx, r)
	auth := c.auth() // a quorum read has waited for what others had changed before it began, of rights too
	if !auth.Enabled {
		return result, err
	}
	rights := auth.Rights(c.user)
	verdict := rights.Decide(need)
	if verdict == store.Denied || err == nil && verdict == store.AllowedAsDir && !result.Node.Dir {
		return kv.Result{}, c.deny("get", key)
	}
	if err == nil {
		result.Node = readable(rights, result.Node)
	}
	return result, err
}

// readOnly is Read of several keys, each of which needs a right of its own.
func (c *Session) readOnly(ctx context.Context, r kv.Read) (kv.Result, error) {
	needs := needsOf(kv.WatchFrom{Key: r.Key, Only: r.Only})
	if key, denied := c.lacks(c.auth(), needs); denied {
		return kv.Result{}, c.deny("get", key)
	}
	result, err := c.service.Read(ctx, r)
	auth := c.auth()
	if !auth.Enabled || err != nil {
		return result, err
	}
	if key, denied := c.lacks(auth, needs); denied {
		return kv.Result{}, c.deny("get", key)
	}
	rights := auth.Rights(c.user)
	top := *result.Node
	top.Nodes = make([]*kv.Node, len(result.Node.Nodes))
	for i, node := range result.Node.Nodes {
		asDir := slices.ContainsFunc(needs, func(n store.Need) bool { return n.Key == node.Key && n.AsDir })
		if rights.Decide(store.Need{Key: node.Key, AsDir: asDir, Below: true}) == store.AllowedAsDir && !node.Dir {
			return kv.Result{}, c.deny("get", node.Key)
		}
		top.Nodes[i] = readable(rights, node)
	}
	result.Node = &top
	return result, nil
}

// needsOf returns the rights that a watch needs.
func needsOf(from kv.WatchFrom) []store.Need {
	keys := from.Only
	if len(keys) == 0 {
		keys = []string{from.Key}
	}
	needs := make([]store.Need, len(keys))
	for i, key := range keys {
		key, asDir := kv.SplitDir(key)
		needs[i] = store.Need{Key: key, AsDir: asDir, Below: from.Recursive || len(from.Only) > 0}
	}
	return needs
}

// lacks returns the key of the first of needs that is not granted.
func (c *Session) lacks(auth *store.Auth, needs []store.Need) (key string, lacks bool) {
	if !auth.Enabled {
		return "", false
	}
	rights := auth.Rights(c.user)
	for _, need := range needs {
		if rights.Decide(need) == store.Denied {
			return need.Key, true
		}
	}
	return "", false
}

// readable returns a directory without those of its children that may not be read.
func readable(rights *store.Rights, n *kv.Node) *kv.Node {
	if len(n.Nodes) == 0 || rights.Decide(store.Need{Key: n.Key, AsDir: true, Below: true}) != store.Denied {
		return n
	}
	visible := *n
	visible.Nodes = nil
	for _, child := range n.Nodes {
		if rights.Decide(store.Need{Key: child.Key, AsDir: child.Dir}) != store.Denied {
			visible.Nodes = append(visible.Nodes, child)
		}
	}
	return &visible
}

// Write implements kv.Writer. Values that may not be read are left out of the answer.
func (c *Session) Write(ctx context.Context, w kv.Write) (kv.Result, error) {
	key, asDir := kv.SplitDir(w.Key)
	w.Key = key
	auth := c.auth()
	if auth.Enabled && auth.Rights(c.user).Decide(store.WriteNeed(w, asDir)) == store.Denied {
		return kv.Result{}, c.deny(w.Op.String(), key)
	}
	result, err := c.service.write(ctx, c.service.timeout(), command.Command{User: c.user, AuthRevision: auth.Revision, AsDir: asDir, Body: w})
	if kv.Is(err, kv.Denied) {
		return kv.Result{}, c.deny(w.Op.String(), key)
	}
	if auth = c.auth(); !auth.Enabled {
		return result, err
	}
	verdict := auth.Rights(c.user).Decide(store.Need{Key: key, AsDir: asDir})
	return discreet(w, verdict, result, err)
}

// discreet returns the answer of a write without what was there before, unless that may be read.
func discreet(w kv.Write, verdict store.Verdict, result kv.Result, err error) (kv.Result, error) {
	wasDir := result.PrevNode != nil && result.PrevNode.Dir
	if verdict == store.Allowed || verdict == store.AllowedAsDir && wasDir {
		return result, err
	}
	result.PrevNode = nil
	if w.Refresh { // the node has the value that was there
		result.Node = nil
	}
	if failed, ok := err.(*kv.Error); ok && failed.Kind == kv.CompareFailed && w.PrevValue != "" {
		silent := *failed
		silent.Cause = ""
		err = &silent
	}
	return result, err
}

// Watch implements kv.Watcher. A watch that loses its right, or whose user gets another password, ends with
// Denied at once.
func (c *Session) Watch(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	w := &guardedWatch{session: c, needs: needsOf(from)}
	if key, permitted := w.permitted(c.auth()); !permitted {
		return nil, c.deny("watch", key)
	}
	inner, err := c.service.Watch(ctx, from)
	if err != nil {
		return nil, err
	}
	w.Watch = inner
	guards := &c.service.state.guards
	guards.add(w)
	if key, permitted := w.permitted(c.auth()); !permitted { // lost in between, unseen by the guards
		w.Close()
		return nil, c.deny("watch", key)
	}
	return w, nil
}
