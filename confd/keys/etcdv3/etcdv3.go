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
	settings clientv3.Config
	timeout  time.Duration
	bytes    atomic.Uint64

	mu     sync.Mutex // guards the fields below
	client *clientv3.Client
	closed bool
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
	s := &Store{timeout: cmp.Or(cfg.RequestTimeout, defaultRequestTimeout)}
	dial, err := dialer(cfg, files, secure)
	if err != nil {
		return nil, err
	}
	s.settings = clientv3.Config{
		Endpoints: hosts, Username: cfg.Username, Password: password,
		DialTimeout:       cmp.Or(cfg.DialTimeout, defaultDialTimeout),
		DialKeepAliveTime: pulse, DialKeepAliveTimeout: pulse,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial), grpc.WithStatsHandler(&counter{&s.bytes}), grpc.WithNoProxy()},
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
	data, err := os.ReadFile(cfg.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the password file: %w", err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(first, "\r"), nil
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

// Read reads everything at and below Only, or Key, at one revision. Errors by Kind: Denied, Unavailable,
// Timeout.
func (s *Store) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	var ops []clientv3.Op
	for _, root := range roots(r.Key, r.Only) {
		if root != "" {
			ops = append(ops, clientv3.OpGet(root))
		}
		ops = append(ops, clientv3.OpGet(root+"/", clientv3.WithRange(root+"0"))) // '0' follows '/'
	}
	result := kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: &kv.Node{Key: kv.Clean(r.Key), Dir: true}}}
	seen := map[string]*kv.Node{}
	for len(ops) > 0 {
		some := ops[:min(opsMax, len(ops))]
		ops = ops[len(some):]
		if result.Index != 0 { // as of the revision of the first
			for i := range some {
				clientv3.WithRev(int64(result.Index))(&some[i])
			}
		}
		answer, err := s.readAtOnce(ctx, some)
		if err != nil {
			return kv.Result{}, failed("get", r.Key, err)
		}
		if result.Index == 0 {
			result.Index, result.Cluster = kv.Index(answer.Header.Revision), clusterOf(answer.Header.ClusterId)
		}
		for _, part := range answer.Responses {
			for _, pair := range part.GetResponseRange().Kvs {
				add(seen, string(pair.Key), &kv.Node{Value: string(pair.Value), ModifiedIndex: kv.Index(pair.ModRevision), CreatedIndex: kv.Index(pair.CreateRevision)})
			}
		}
	}
	for _, node := range seen {
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
func failed(op, key string, err error) error {
	var known *kv.Error
	if errors.As(err, &known) {
		return err
	}
	e := &kv.Error{Op: op, Key: cmp.Or(key, "/"), Kind: kv.Unavailable, Err: err}
	switch code := status.Code(err); {
	case errors.Is(err, rpctypes.ErrCompacted):
		e.Kind = kv.HistoryGone
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded, code == codes.Canceled:
		e.Kind = kv.Timeout
	case errors.Is(err, rpctypes.ErrNoLeader):
		e.Kind = kv.NoLeader
	case refused(err):
		e.Kind, e.Cause = kv.Denied, "the user is not known, has another password, or may not do this"
	}
	return e
}

// refused reports whether err says that the user may not. The reason for which a watch is ended is a text only.
func refused(err error) bool {
	for _, refusal := range []error{rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed, rpctypes.ErrInvalidAuthToken} {
		if errors.Is(err, refusal) || strings.Contains(err.Error(), refusal.Error()) {
			return true
		}
	}
	return false
}
