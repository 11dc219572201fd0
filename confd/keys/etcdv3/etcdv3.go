// Package etcdv3 reads and watches the keys of an etcd over its v3 API, as a kv.Store that cannot be written.
//
// It knows ranges, revisions and leases, through etcd's own client. A v3 store has no directories: a key
// stands for itself and for what begins with it and a slash, and both may hold values. So nodes come flat,
// none is a directory but the one that holds the answer, and no name hides a key.
package etcdv3

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// DefaultEndpoint is where a store is looked for when no endpoint is named.
const DefaultEndpoint = "127.0.0.1:2379"

const (
	defaultDialTimeout    = 2 * time.Second
	defaultRequestTimeout = 5 * time.Second
	// pulse is how often a store is asked for a sign of life while it is watched.
	pulse = 5 * time.Second
	// opsMax is how many ranges an etcd reads at once unless it is told otherwise.
	opsMax = 128
)

// Store is an etcd. It is safe for concurrent use.
type Store struct {
	timeout      time.Duration
	passwordFile string // "" if the password is not from a file
	bytes        atomic.Uint64
	unreached    atomic.Pointer[error] // why the last attempt to connect has failed; nil if it has not

	mu       sync.Mutex // guards the fields below
	settings clientv3.Config
	client   *clientv3.Client
	closed   bool
	valued   map[string]bool     // keys that were asked for by name and had a value when they were read last
	leftOut  map[string]bool     // keys that were asked for by name and may not be read, but what is below them
	partial  map[*watch][]string // watches that are open, and the keys that were left out of them; none without any
}

var _ kv.Store = (*Store)(nil)

// New returns the store that cfg names; of its fields those are used that say where it is, who asks, how it is
// reached, and how long for. It reads the files that cfg names and connects to nobody yet: a store that
// cannot be reached shows when it is read.
func New(cfg kvclient.Config) (*Store, error) {
	files := tlsconfig.Files{Cert: cfg.CertFile, Key: cfg.KeyFile, CA: cfg.CAFile}
	if (files.Cert == "") != (files.Key == "") {
		return nil, errors.New("a client certificate needs both its certificate file and its key file")
	}
	password, err := passwordOf(cfg)
	if err != nil {
		return nil, err
	}
	secure := files != tlsconfig.Files{}
	var hosts []string
	for _, endpoint := range cfg.Endpoints {
		host, isSecure, err := hostOf(endpoint)
		if err != nil {
			return nil, err
		}
		secure = secure || isSecure
		hosts = append(hosts, host)
	}
	if len(hosts) == 0 {
		hosts = []string{DefaultEndpoint}
	}
	s := &Store{
		timeout: cmp.Or(cfg.RequestTimeout, defaultRequestTimeout), passwordFile: cfg.PasswordFile,
		valued: map[string]bool{}, leftOut: map[string]bool{}, partial: map[*watch][]string{},
	}
	dial, err := dialer(cfg, files, secure)
	if err != nil {
		return nil, err
	}
	s.settings = clientv3.Config{
		Endpoints: hosts, Username: cfg.Username, Password: password,
		DialTimeout:       cmp.Or(cfg.DialTimeout, defaultDialTimeout),
		DialKeepAliveTime: pulse, DialKeepAliveTimeout: pulse,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.noting(dial)), grpc.WithStatsHandler(&counter{&s.bytes}), grpc.WithNoProxy()},
	}
	return s, nil
}

// connected returns the client. It is made by the first who needs it, as it asks who the user is at once.
func (s *Store) connected() (*clientv3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, &kv.Error{Kind: kv.Closed}
	}
	if s.client == nil {
		client, err := clientv3.New(s.settings)
		if err != nil {
			return nil, err
		}
		s.client = client
	}
	return s.client, nil
}

// passwordOf returns the password, which may be in a file.
func passwordOf(cfg kvclient.Config) (string, error) {
	if cfg.PasswordFile == "" {
		return cfg.Password, nil
	}
	return readPassword(cfg.PasswordFile)
}

func readPassword(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("cannot read the password file: %w", err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(first, "\r"), nil
}

// renewed reports whether the file has another password by now than the one that was refused; then the next who
// asks logs in with it. Watches with the one before end.
func (s *Store) renewed() bool {
	if s.passwordFile == "" {
		return false
	}
	password, err := readPassword(s.passwordFile)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || s.closed || password == s.settings.Password {
		return false
	}
	s.settings.Password = password
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
	return true
}

// hostOf returns host and port of an endpoint, and whether it is to be reached over TLS.
func hostOf(endpoint string) (host string, secure bool, err error) {
	scheme, rest, found := strings.Cut(endpoint, "://")
	if !found {
		scheme, rest = "", endpoint
	}
	if scheme != "" && scheme != "http" && scheme != "https" {
		return "", false, fmt.Errorf("endpoint %s: the scheme is not http or https", endpoint)
	}
	rest = strings.TrimSuffix(rest, "/")
	if _, _, err := net.SplitHostPort(rest); err != nil {
		rest = net.JoinHostPort(strings.Trim(rest, "[]"), "2379")
	}
	if host, _, err := net.SplitHostPort(rest); err != nil || host == "" || strings.Contains(rest, "/") {
		return "", false, fmt.Errorf("endpoint %s: it is no host with a port", endpoint)
	}
	return rest, scheme == "https", nil
}

// dialer returns how connections are made. The files of TLS are looked at for each.
func dialer(cfg kvclient.Config, files tlsconfig.Files, secure bool) (func(context.Context, string) (net.Conn, error), error) {
	plain := &net.Dialer{Timeout: cmp.Or(cfg.DialTimeout, defaultDialTimeout)}
	if !secure {
		return func(ctx context.Context, address string) (net.Conn, error) {
			return plain.DialContext(ctx, "tcp", address)
		}, nil
	}
	client, err := tlsconfig.NewClient(tlsconfig.Config{Files: files, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		raw, err := plain.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		settings := client.Config(host).Clone()
		settings.NextProtos = []string{"h2"}
		conn := tls.Client(raw, settings)
		ctx, cancel := context.WithTimeout(ctx, plain.Timeout)
		defer cancel()
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		return conn, nil
	}, nil
}

// noting returns dial as it notes what becomes of its connections: a call that waits for one is told of its own end
// alone.
func (s *Store) noting(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				s.note(address, cmp.Or(tlsconfig.Explain(err), err.Error()))
			}
			return nil, err
		}
		return &noted{Conn: conn, store: s, address: address}, nil
	}
}

// note notes why a member is not reached; "" that one is.
func (s *Store) note(address, why string) {
	if why == "" {
		s.unreached.Store(nil)
		return
	}
	err := fmt.Errorf("cannot reach %s: %s", address, why)
	s.unreached.Store(&err)
}

// noted is a connection whose beginning is noted: only then does the other side say that it wants TLS, or another
// certificate. It is read by one goroutine.
type noted struct {
	net.Conn
	store   *Store
	address string
	begun   bool
}

func (c *noted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.begun {
		return n, err
	}
	c.begun = true
	_, secure := c.Conn.(*tls.Conn)
	switch why := tlsconfig.Explain(err); {
	case why != "":
		c.store.note(c.address, why)
	case !secure && (n == 0 && errors.Is(err, io.EOF) || n > 0 && !isHTTP2(p[:n])):
		c.store.note(c.address, "it does not answer in plain text; if it speaks TLS, name it with https://, or the files of TLS")
	case secure && n == 0 && !errors.Is(err, net.ErrClosed):
		c.store.note(c.address, "it ended the connection before it answered, as one does that refuses the certificate shown to it")
	case n > 0:
		c.store.note(c.address, "")
	}
	return n, err
}

// isHTTP2 reports whether an answer can begin like this in HTTP/2: with a frame of settings.
func isHTTP2(begin []byte) bool {
	const typeAt, settings = 3, 4
	return len(begin) <= typeAt || begin[typeAt] == settings
}

// counter counts what is received.
type counter struct{ bytes *atomic.Uint64 }

func (c *counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *counter) HandleConn(context.Context, stats.ConnStats)                       {}
func (c *counter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		c.bytes.Add(uint64(in.WireLength))
	}
}

// BytesRead returns how many bytes of answers were read so far.
func (s *Store) BytesRead() uint64 { return s.bytes.Load() }

// Close ends all watches and closes the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.client == nil {
		return nil
	}
	return s.client.Close()
}

// Write refuses: kvconfd writes no keys.
func (s *Store) Write(_ context.Context, w kv.Write) (kv.Result, error) {
	return kv.Result{}, &kv.Error{Op: w.Op.String(), Key: w.Key, Kind: kv.Invalid, Cause: "keys are only read over the v3 API"}
}

// roots returns the keys that are asked for, none covered by another: only, or dir itself.
func roots(dir string, only []string) []string {
	if len(only) == 0 {
		only = []string{kv.Clean(dir)}
	}
	sorted := slices.Sorted(slices.Values(only))
	return slices.DeleteFunc(slices.Compact(sorted), func(key string) bool {
		for above := key; above != ""; {
			above = kv.Parent(above)
			if _, found := slices.BinarySearch(sorted, above); found {
				return true
			}
		}
		return false
	})
}

// covers reports whether key is root or below it.
func covers(root, key string) bool { return key == root || kv.Below(key, root) }

// span is what one range holds: all that is below a key, or the key itself.
type span struct {
	root   string
	itself bool
}

// spans returns the ranges of what is at and below keys, and nothing else: who asks for more needs a right to more.
func spans(keys []string) (all []span) {
	for _, key := range keys {
		if key != "" {
			all = append(all, span{key, true})
		}
		all = append(all, span{key, false})
	}
	return all
}

// start is where the range begins.
func (p span) start() string {
	if p.itself {
		return p.root
	}
	return p.root + "/"
}

// options are those of a request for the range.
func (p span) options(more ...clientv3.OpOption) []clientv3.OpOption {
	if p.itself {
		return more
	}
	return append(more, clientv3.WithRange(p.root+"0")) // '0' follows '/'
}

// Read reads everything at and below Only, or Key, at one revision. A key that is named and may not be read is left
// out if what is below it may be read, and it had no value as far as is known. Errors by Kind: Denied, Unavailable, Timeout.
func (s *Store) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	wanted := spans(roots(r.Key, r.Only))
	result, err := s.read(ctx, wanted)
	if isWrongUser(err) && s.renewed() {
		result, err = s.read(ctx, wanted)
	}
	if isForbidden(err) {
		if permitted := s.permitted(ctx, wanted); len(permitted) < len(wanted) {
			result, err = s.read(ctx, permitted)
		}
	}
	if err != nil {
		return kv.Result{}, s.failed("get", r.Key, err)
	}
	result.Node.Key = kv.Clean(r.Key)
	return result, nil
}

// permitted returns wanted without the keys that may be left out.
func (s *Store) permitted(ctx context.Context, wanted []span) []span {
	return slices.DeleteFunc(slices.Clone(wanted), func(p span) bool {
		if !p.itself || s.hadValue(p.root) {
			return false
		}
		_, err := s.readAtOnce(ctx, []clientv3.Op{clientv3.OpGet(p.root, clientv3.WithCountOnly())})
		denied := isForbidden(err)
		s.mu.Lock()
		defer s.mu.Unlock()
		if denied {
			s.leftOut[p.root] = true
		}
		return denied
	})
}

func (s *Store) hadValue(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.valued[key]
}

// remember keeps which of the keys that were read by name have a value, and that these may be read: watches that were
// opened without one of them end.
func (s *Store) remember(read []span, found map[string]*kv.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range read {
		if !p.itself {
			continue
		}
		s.valued[p.root] = found[p.root] != nil
		delete(s.leftOut, p.root)
		for w, without := range s.partial {
			if slices.Contains(without, p.root) {
				w.fail(&kv.Error{Op: "watch", Key: p.root, Kind: kv.HistoryGone, Cause: "the key may be read by now, and was not watched"})
			}
		}
	}
}

// watched returns wanted without the keys that were left out when they were read. w is to watch that.
func (s *Store) watched(w *watch, wanted []span) []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(wanted, func(p span) bool {
		isLeftOut := p.itself && s.leftOut[p.root]
		if isLeftOut {
			s.partial[w] = append(s.partial[w], p.root)
		}
		return isLeftOut
	})
}

// forget notes that w is closed.
func (s *Store) forget(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.partial, w)
}

// read reads everything in wanted at one revision.
func (s *Store) read(ctx context.Context, wanted []span) (kv.Result, error) {
	result := kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: &kv.Node{Dir: true}}}
	found := map[string]*kv.Node{}
	for some := range slices.Chunk(wanted, opsMax) {
		var ops []clientv3.Op
		for _, p := range some { // revision 0 is the last one: all are read as of that of the first
			ops = append(ops, clientv3.OpGet(p.start(), p.options(clientv3.WithRev(int64(result.Index)))...))
		}
		answer, err := s.readAtOnce(ctx, ops)
		if err != nil {
			return kv.Result{}, err
		}
		if result.Index == 0 {
			result.Index, result.Cluster = kv.Index(answer.Header.Revision), clusterOf(answer.Header.ClusterId)
		}
		for _, part := range answer.Responses {
			for _, pair := range part.GetResponseRange().Kvs {
				add(found, string(pair.Key), &kv.Node{Value: string(pair.Value), ModifiedIndex: kv.Index(pair.ModRevision), CreatedIndex: kv.Index(pair.CreateRevision)})
			}
		}
	}
	s.remember(wanted, found)
	for _, node := range found {
		result.Node.Nodes = append(result.Node.Nodes, node)
	}
	slices.SortFunc(result.Node.Nodes, func(a, b *kv.Node) int { return strings.Compare(a.Key, b.Key) })
	return result, nil
}

func (s *Store) readAtOnce(ctx context.Context, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	client, err := s.connected()
	if err != nil {
		return nil, err
	}
	return client.Txn(ctx).Then(ops...).Commit()
}

// add adds a node by the clean spelling of its key; the key that is spelled so itself wins over those that
// are cleaned to it.
func add(nodes map[string]*kv.Node, key string, node *kv.Node) {
	node.Key = kv.Clean(key)
	if nodes[node.Key] == nil || node.Key == key {
		nodes[node.Key] = node
	}
}

func clusterOf(id uint64) string { return strconv.FormatUint(id, 16) }

// failed returns err as the suite names it.
func (s *Store) failed(op, key string, err error) error {
	var known *kv.Error
	if errors.As(err, &known) {
		return err
	}
	e := &kv.Error{Op: op, Key: cmp.Or(key, "/"), Kind: kv.Unavailable, Err: err}
	code := status.Code(err)
	late := errors.Is(err, context.DeadlineExceeded) || code == codes.DeadlineExceeded
	switch unreached := s.unreached.Load(); {
	case errors.Is(err, rpctypes.ErrCompacted):
		e.Kind = kv.HistoryGone
	case errors.Is(err, rpctypes.ErrNoLeader):
		e.Kind = kv.NoLeader
	case refused(err):
		e.Kind, e.Cause = kv.Denied, "the user is not known, has another password, or may not do this"
	case unreached != nil && (late || code == codes.Unavailable):
		e.Err = *unreached
	case late, errors.Is(err, context.Canceled), code == codes.Canceled:
		e.Kind = kv.Timeout
	}
	return e
}

// refused reports whether err says that the user may not.
func refused(err error) bool { return isForbidden(err) || isWrongUser(err) }

// isForbidden reports whether err says that the user has no right to a key.
func isForbidden(err error) bool { return says(err, rpctypes.ErrPermissionDenied) }

// isWrongUser reports whether err says that the store does not believe who asks.
func isWrongUser(err error) bool {
	return says(err, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed, rpctypes.ErrInvalidAuthToken)
}

// says reports whether err is one of reasons. The reason for which a watch is ended is a text only.
func says(err error, reasons ...error) bool {
	return err != nil && slices.ContainsFunc(reasons, func(reason error) bool {
		return errors.Is(err, reason) || strings.Contains(err.Error(), reason.Error())
	})
}
