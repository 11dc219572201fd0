// Package kvclient is a kv.Store over the v2 HTTP API of kvd, or of an etcd that still serves it.
//
// It knows endpoints, which of them works, what may be sent twice, and how to go on watching
// after a cut. It does not know what the keys mean, reads no flags (see clientflags), and never
// repeats a write that may have happened.
//
//	client, err := kvclient.New(kvclient.Config{Endpoints: []string{"10.0.0.1:2379", "10.0.0.2:2379"}})
//	...
//	defer client.Close()
//	result, err := client.Read(ctx, kv.Read{Key: "/services/web", Recursive: true})
//	watch, err := client.Watch(ctx, kv.WatchFrom{Key: "/services/web", Recursive: true, Index: result.Index + 1})
//
// A read followed by a watch from the next index misses nothing and sees nothing twice. Follow does
// both, and reads again when the store no longer has what was missed.
//
// Several keys of a directory are one read and one watch:
//
//	result, err := client.Read(ctx, kv.Read{Recursive: true, Only: keys})
//	watch, err := client.Watch(ctx, kv.WatchFrom{Recursive: true, Only: keys, Index: result.Index + 1, Seen: result.Seen})
//
// A kvd answers at one index and in one order. An etcd is asked for each key; what it brings is left out
// as far as it was read, and hidden keys have watches of their own.
//
// # Endpoints
//
// A client puts its endpoints into an order of its own, at random, stays with the one that answers,
// and moves on to the next when it fails: members share their clients, and those of a failed one
// spread over the others. A call asks each endpoint once at most; who calls decides whether to try
// later. No proxy of the environment is used.
//
// # What is sent twice
//
//	                                        reads        writes           watches
//	no connection to the endpoint           next one     next one         next one
//	5xx that says that nothing was done     next one     next one         next one
//	sent, and no answer, a broken one, or
//	one that no store gives                 next one     Timeout, Unknown go on from the last event
//	any other 5xx                           next one     Timeout, Unknown next one
//	4xx: the store refuses                  its error    its error        its error
//	a redirect                              followed, with method and body; the password goes to
//	                                        endpoints only
//
// Writes are alike in this, whatever they do. A compare-and-swap that is sent twice can fail by its
// own first success, a delete can take away what somebody has written in between, and a child in
// order would be there twice. After Timeout or Unknown only a read tells what is so.
//
// Relay and RelayWatch pass on what somebody else has asked for by the same table, and keep the answer as it is.
//
// # Silence
//
// A link that is dead is noticed within ten seconds. A process that hangs is not: its kernel goes on to
// acknowledge. So each endpoint at which watches wait is asked for its version every ten seconds, over a
// connection of its own; without an answer within RequestTimeout its watches go on at the next one.
//
// # Users
//
// Username and Password are sent as Basic authentication. A store that refuses is kind Denied; the
// error says whom it has refused.
package kvclient

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// DefaultEndpoint is where a client looks when no endpoint is named.
const DefaultEndpoint = "http://127.0.0.1:2379"

// What a Config of zeros means.
const (
	DefaultDialTimeout      = time.Second
	DefaultRequestTimeout   = 5 * time.Second
	defaultResponseBytesMax = 64 << 20
)

// Config says how to reach a store. The zero value is a kvd on this machine.
type Config struct {
	// Endpoints are members of one cluster, "http://host:port". Without a scheme it is http, or
	// https when one of the TLS files is given; without a scheme and a port, 2379. Empty: DefaultEndpoint.
	Endpoints []string

	// Username and Password are sent with every request to an endpoint, and to nobody else. The
	// password may also follow the user name after a colon, or be the first line of PasswordFile,
	// which is read again when the store refuses; two of them at once are an error, so that a name
	// cannot hold a colon. No name, no authentication.
	Username, Password string
	PasswordFile       string

	// The files of TLS are looked at for each connection, so that they may be renewed. Those that
	// cannot be used are told to Log, and the ones before them stay in use.
	CAFile   string // PEM authorities that sign the servers' certificates; empty: the system's
	CertFile string // PEM certificate to show to the servers; empty: none
	KeyFile  string // its key

	DialTimeout      time.Duration // to connect to one endpoint; zero: 1 s
	RequestTimeout   time.Duration // for one answer of one endpoint, or for a watch to be registered; zero: 5 s
	ResponseBytesMax int64         // largest answer and largest event; zero: 64 MiB
	IdleConnections  int           // kept open for each endpoint; zero: 8

	Log *slog.Logger // watches that are interrupted and resumed; nil: silent

	// Shuffle puts the n endpoints into the order in which they are tried; nil: at random, so that
	// many clients spread over the members, and again over those that are left when one fails.
	Shuffle func(n int, swap func(i, j int))

	// OnRequest, unless nil, is called before each request, with the form that is sent as its
	// body, in the goroutine of the call or of the watch. Bodies of access control, which may hold
	// passwords, are not shown.
	OnRequest func(method, url, form string)
}

// Client is a kv.Store. It is safe for concurrent use and holds a few idle connections.
type Client struct {
	endpoints        []*url.URL   // in the order in which they are tried
	pinned           atomic.Int64 // index of the endpoint that worked last
	plain            atomic.Bool  // the store did not narrow the last answer that was to be
	bytesRead        atomic.Uint64
	http             *http.Client
	user             *user
	requestTimeout   time.Duration
	responseBytesMax int64
	log              *slog.Logger
	onRequest        func(method, url, form string)

	lifetime context.Context // ends with Close
	end      context.CancelFunc
	watches  sync.WaitGroup
	pulses   pulses

	mu     sync.Mutex // guards the fields below
	closed bool
	seen   position // the furthest the store has been seen
	cut    int      // watches that are interrupted
}

var _ kv.Store = (*Client)(nil)

// New checks cfg and returns a client. It reads the files that cfg names and connects to nobody.
func New(cfg Config) (*Client, error) {
	secure := cfg.CAFile != "" || cfg.CertFile != ""
	endpoints, err := parseEndpoints(cfg.Endpoints, secure)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	user, err := newUser(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{
		endpoints: endpoints,
		http: &http.Client{
			Transport: transport,
			// A redirect keeps its method and body, which net/http would not do for all of them.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		user:             user,
		requestTimeout:   cmp.Or(cfg.RequestTimeout, DefaultRequestTimeout),
		responseBytesMax: cmp.Or(cfg.ResponseBytesMax, defaultResponseBytesMax),
		log:              cfg.Log,
		onRequest:        cfg.OnRequest,
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	shuffle := cfg.Shuffle
	if shuffle == nil {
		shuffle = rand.Shuffle
	}
	shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
	c.pulses = pulses{interval: pulseInterval, polls: map[*poll]struct{}{}}
	c.lifetime, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Close ends all calls and watches, waits for them and closes the connections.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.watches.Wait()
	c.http.CloseIdleConnections()
	return nil
}

// BytesRead returns how many bytes of answers the client has read so far, without their headers.
func (c *Client) BytesRead() uint64 { return c.bytesRead.Load() }

// Read asks the endpoints in turn until one answers.
func (c *Client) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	if len(r.Only) > 0 {
		return c.readOnly(ctx, r)
	}
	return c.keys(ctx, "get", r.Key, etcdv2.ReadRequest(r), true, false)
}

// Write asks the endpoints in turn only while the write has surely not happened. Kind Timeout or
// Unknown means that it may have.
func (c *Client) Write(ctx context.Context, w kv.Write) (kv.Result, error) {
	request, err := etcdv2.WriteRequest(w)
	if err != nil {
		return kv.Result{}, err
	}
	return c.keys(ctx, w.Op.String(), w.Key, request, false, w.NoValue)
}

// keys makes one call of the keys API.
func (c *Client) keys(ctx context.Context, op, key string, r etcdv2.Request, repeatable, mayLackNode bool) (result kv.Result, err error) {
	err = c.exchange(ctx, r, repeatable, func(a *answer) (err error) {
		c.observe(a.position()) // also of an error: it comes from the store as it is now
		result, err = a.result(mayLackNode)
		return err
	})
	if err != nil {
		return kv.Result{}, about(err, op, nameOf(key))
	}
	return result, nil
}
