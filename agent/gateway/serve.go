package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// caller is who sends a request.
type caller struct {
	client      *client
	rules       rules
	credentials string // "" for those of the gateway
	origin      string // of a web page
}

func (c caller) String() string {
	if !c.client.address.IsValid() {
		return "who uses this socket"
	}
	return c.client.address.String()
}

// ServeHTTP implements http.Handler for requests over connections of the gateway.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	visit, ok := r.Context().Value(visitKey{}).(*visit)
	if !ok {
		http.Error(w, "this connection is not one of the gateway", http.StatusInternalServerError)
		return
	}
	s.requests.Add(1)
	defer s.requests.Done()
	s.counts.requests.Add(1)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	address := visit.client.address
	if address.IsValid() && !s.answersTo(r.Host) {
		s.refuse(w, http.StatusForbidden, etcdv2.CodeInvalidField, fmt.Sprintf("this gateway is not known as %q; to reach it by that name, start kvagent with --gateway-host %[1]s", plainHost(withoutPort(r.Host))))
		return
	}
	who := caller{visit.client, s.policy.of(address, *visit.door.networks.Load()), r.Header.Get("Authorization"), r.Header.Get("Origin")}
	if who.rules == nil {
		s.refuse(w, http.StatusForbidden, etcdv2.CodeUnauthorized, fmt.Sprintf("no rule of this gateway is for %s (--gateway-allow)", who))
		return
	}
	s.route(w, r, who)
}

// route goes by the escaped path, so that an escaped separator or dot is part of a key and never of the route.
func (s *Server) route(w http.ResponseWriter, r *http.Request, who caller) {
	if r.Method == http.MethodOptions {
		return
	}
	escaped := r.URL.EscapedPath()
	if !strings.HasPrefix(escaped, "/") {
		http.Error(w, "Bad Request", http.StatusBadRequest)
		return
	}
	if clean := cleanPath(escaped); clean != escaped {
		if r.URL.RawQuery != "" {
			clean += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", clean)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	get, head, put, post, del := http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete
	if _, ok := under(escaped, etcdv2.KeysPath); ok {
		if allowed(w, r, head, get, put, post, del) {
			s.serveKeys(w, r, who)
		}
		return
	}
	if rest, ok := under(escaped, etcdv2.LeasesPath); ok {
		s.serveLeases(w, r, who, strings.TrimPrefix(rest, "/"))
		return
	}
	switch escaped {
	case "/version", "/health":
		if allowed(w, r, get, head) {
			s.serveState(w, r)
		}
	case "/v2/machines":
		if allowed(w, r, get, head) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			io.WriteString(w, ownURL(r))
		}
	case "/v2/members", "/v2/members/", "/v2/members/leader":
		if r.Method != get {
			s.forbid(w)
			return
		}
		s.serveMembers(w, r, strings.HasSuffix(escaped, "leader"))
	default:
		if slices.ContainsFunc(elsewhere, func(root string) bool { _, ok := under(escaped, root); return ok }) {
			s.forbid(w)
			return
		}
		http.NotFound(w, r)
	}
}

// elsewhere is what members serve, and the gateway does not: to look after a cluster is not for containers.
var elsewhere = []string{"/v2/auth", "/v2/members", "/v2/cluster", "/v2/stats", etcdv2.SnapshotPath, "/metrics", "/debug"}

// allowed answers a request with another method, and reports whether there is none.
func allowed(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ","))
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

// forbid answers what is not for containers.
func (s *Server) forbid(w http.ResponseWriter) {
	s.counts.refused.Add(1)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	io.WriteString(w, `{"message":"this is not served through the gateway of a host: ask a member of the cluster"}`)
}

// serveKeys answers a request about a key.
func (s *Server) serveKeys(w http.ResponseWriter, r *http.Request, who caller) {
	if r.ContentLength < 0 || r.ContentLength > largeBytes {
		if !s.takeLarge() {
			s.refuse(w, http.StatusServiceUnavailable, etcdv2.CodeRaftInternal, etcdv2.Overloaded(fmt.Sprintf("this gateway holds no more than %d forms and answers of over %d bytes at a time", largeMost, largeBytes)).Cause)
			return
		}
		defer s.leaveLarge()
	}
	values, err := s.values(w, r)
	if err != nil {
		s.failForm(w, err)
		return
	}
	q := ask(r.Method, r.URL.Path[len(etcdv2.KeysPath):], values)
	var narrowed []string
	if q.narrowed() {
		if narrowed, err = kv.Only(q.key, q.only); err != nil {
			s.fail(w, http.StatusBadRequest, wrongOnly(err))
			return
		}
	}
	if what, key, may := q.permitted(who.rules, narrowed); !may {
		s.deny(w, who, what, q, key)
		return
	}
	if lease := q.params.Get("lease"); lease != "" && !q.reads() && !s.mayUseLease(w, r, who, lease, writing) {
		return
	}
	switch {
	case q.wait:
		s.watch(w, r, who, q, narrowed)
	case q.reads():
		s.read(w, r, who, q)
	default:
		s.write(w, r, who, q)
	}
}

// permitted reports whether rules let q be passed on, and if not what it would do to which key. Of the keys that it is
// narrowed to each counts as a request of its own.
func (q asked) permitted(rules rules, narrowed []string) (what, key string, may bool) {
	if !q.reads() {
		return "write", q.key, rules.mayWrite(q.key)
	}
	check := rules.mayRead
	if q.wait {
		check = rules.mayWatch
	}
	if narrowed == nil {
		narrowed = []string{q.key}
	}
	for _, key := range narrowed {
		if !check(key, q.recursive) {
			return "read", key, false
		}
	}
	return "", "", true
}

// wrongOnly returns what a kvd answers to keys that a request cannot be narrowed to.
func wrongOnly(err error) *etcdv2.Error {
	var wrong *kv.Error
	errors.As(err, &wrong)
	return etcdv2.NewError(etcdv2.CodeInvalidField, `"only": `+wrong.Cause)
}

// values returns the parameters of a request: of its form, which is read, before those of its query.
func (s *Server) values(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	defer control.SetReadDeadline(time.Time{})
	r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
	if r.Method == http.MethodPut || r.Method == http.MethodPost {
		err := r.ParseForm()
		return r.Form, err
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil { // that a client has gone is noticed only after its body
		return nil, err
	}
	return url.ParseQuery(r.URL.RawQuery)
}

func (s *Server) failForm(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		s.fail(w, http.StatusRequestEntityTooLarge, etcdv2.NewError(etcdv2.CodeInvalidForm, fmt.Sprintf("the form is longer than %d bytes; store large data elsewhere and its address here", tooLarge.Limit)))
		return
	}
	s.fail(w, http.StatusBadRequest, etcdv2.NewError(etcdv2.CodeInvalidForm, err.Error()))
}

// deny answers what the rules do not allow.
func (s *Server) deny(w http.ResponseWriter, who caller, what string, q asked, key string) {
	deep := ""
	if q.recursive || what == "write" {
		deep = " and all below it"
	}
	s.refuse(w, http.StatusForbidden, etcdv2.CodeUnauthorized, fmt.Sprintf("the rules of this gateway do not let %s %s %s%s (--gateway-allow)", who, what, nameOf(key), deep))
}

func (s *Server) refuse(w http.ResponseWriter, status int, code etcdv2.Code, cause string) {
	s.counts.refused.Add(1)
	s.fail(w, status, etcdv2.NewError(code, cause))
}

// fail answers with an error of the keys API that is the gateway's own.
func (s *Server) fail(w http.ResponseWriter, status int, e *etcdv2.Error) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set(etcdv2.HeaderIndex, strconv.FormatUint(e.Index, 10))
	if id := s.clients.clusterID(); id != "" {
		header.Set(etcdv2.HeaderClusterID, id)
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(etcdv2.AppendError(nil, e), '\n')) // a client that has gone cannot be told
}

// failUpstream answers that no endpoint has given an answer.
func (s *Server) failUpstream(w http.ResponseWriter, err error) {
	s.counts.failures.Add(1)
	wire := etcdv2.EncodeError(err)
	switch kv.KindOf(err) {
	case kv.Unavailable, kv.Denied, kv.Closed: // nothing was done
		if answered := (*etcdv2.Error)(nil); !errors.As(err, &answered) {
			wire = etcdv2.Unreached(err.Error())
		}
		s.fail(w, http.StatusServiceUnavailable, wire)
		return
	}
	s.fail(w, wire.Status(), wire)
}

// relay passes on a request with the credentials of who.
func (s *Server) relay(r *http.Request, who caller, request etcdv2.Request, repeatable bool) (*kvclient.Relayed, error) {
	if request.Header == nil {
		request.Header = http.Header{}
	}
	if who.credentials != "" {
		request.Header.Set("Authorization", who.credentials)
	}
	if who.origin != "" {
		request.Header.Set("Origin", who.origin)
	}
	// Who has sent everything may close its side and wait, which net/http takes for a client that has gone; and
	// the end of a write that was begun has to be known here.
	a, err := s.store.Relay(context.WithoutCancel(r.Context()), request, repeatable)
	if err != nil {
		return nil, err
	}
	s.counts.moved.Add(uint64(a.Failed))
	if a.Status >= http.StatusInternalServerError {
		s.counts.failures.Add(1)
	}
	return a, nil
}

// read answers a read, from memory if it may be.
func (s *Server) read(w http.ResponseWriter, r *http.Request, who caller, q asked) {
	atLeast, seen := s.clients.horizon(who.client)
	cacheable := s.cache != nil && q.plain && who.credentials == "" && who.origin == "" && s.cache.of(q.key) != nil
	asked := time.Now()
	var t ticket
	if cacheable {
		if h, ok := s.cache.get(q.variant(), seen, asked); ok {
			s.counts.hits.Add(1)
			s.told(who.client, "", h.index)
			answerFromMemory(w, h)
			return
		}
		s.counts.misses.Add(1)
		var first *follow
		if t, first = s.cache.begin(q.key); first != nil {
			s.running.Go(func() { s.cache.run(s.stopping, s.store, first, s.notFollowed(first)) })
		}
	}
	request := q
	if cacheable {
		request.method = http.MethodGet // what is kept is good for HEAD too
	}
	a, err := s.relay(r, who, request.request(), true)
	if err == nil {
		a, err = s.upToDate(r, who, request, a, atLeast)
	}
	if err != nil {
		s.failUpstream(w, err)
		return
	}
	defer a.Body.Close()
	if q.narrowed() && a.Status == http.StatusOK && a.Header.Get(etcdv2.HeaderOnly) == "" && !who.rules.mayRead(q.key, true) {
		s.refuse(w, http.StatusForbidden, etcdv2.CodeUnauthorized, fmt.Sprintf("the store does not narrow its answers, and the rules of this gateway do not let %s read %s and all below it (--gateway-allow): ask for each key by itself", who, nameOf(q.key)))
		return
	}
	s.told(who.client, a.Header.Get(etcdv2.HeaderClusterID), number(a.Header, etcdv2.HeaderIndex))
	if small := a.Length >= 0 && a.Length <= largeBytes; cacheable && !small {
		if cacheable = s.takeLarge(); cacheable {
			defer s.leaveLarge()
		}
	}
	if !cacheable {
		s.pass(w, r, a)
		return
	}
	body, err := io.ReadAll(io.LimitReader(a.Body, s.cache.mostBytes()+1))
	if err != nil {
		panic(http.ErrAbortHandler) // of an answer that has begun, or it would have been asked for again
	}
	if int64(len(body)) <= s.cache.mostBytes() {
		s.cache.put(t, q.variant(), asked, a.Status, a.Header, body)
		a.Length = int64(len(body))
	}
	a.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), a.Body), a.Body}
	s.pass(w, r, a)
}

// notFollowed returns what tells the log why a follow is interrupted.
func (s *Server) notFollowed(f *follow) func(error) {
	return func(err error) {
		s.log.Debug("answers are not kept, there is no watch", "key", nameOf(f.key), "err", err)
	}
}

// upToDate returns a, or another answer if a is older than atLeast: a member that lags behind catches up when
// it is asked with a quorum. A store that cannot is another one than before.
func (s *Server) upToDate(r *http.Request, who caller, q asked, a *kvclient.Relayed, atLeast kv.Index) (*kvclient.Relayed, error) {
	index := number(a.Header, etcdv2.HeaderIndex)
	if index == 0 || index >= atLeast || a.Header.Get(etcdv2.HeaderClusterID) != s.clients.clusterID() {
		return a, nil
	}
	a.Body.Close()
	q = q.with("quorum", "true")
	q.method = http.MethodGet
	a, err := s.relay(r, who, q.request(), true)
	if err != nil {
		return nil, err
	}
	if index = number(a.Header, etcdv2.HeaderIndex); index != 0 && index < atLeast {
		s.replaced()
	}
	return a, nil
}

// answerFromMemory answers a GET or HEAD.
func answerFromMemory(w http.ResponseWriter, h hit) {
	header := w.Header()
	for _, name := range []string{"Content-Type", etcdv2.HeaderClusterID, etcdv2.HeaderRaftIndex, etcdv2.HeaderRaftTerm} {
		if values := h.header[http.CanonicalHeaderKey(name)]; values != nil {
			header[http.CanonicalHeaderKey(name)] = values
		}
	}
	header.Set(etcdv2.HeaderIndex, strconv.FormatUint(h.index, 10))
	header.Set("Content-Length", strconv.Itoa(len(h.body)))
	w.WriteHeader(h.status)
	_ = send(w, h.body) // a client that has gone cannot be told
}

// write passes on a write. What was remembered of its key is forgotten, whatever became of it.
func (s *Server) write(w http.ResponseWriter, r *http.Request, who caller, q asked) {
	a, err := s.relay(r, who, q.request(), false)
	if err != nil {
		s.forget(q.key)
		s.failUpstream(w, err)
		return
	}
	defer a.Body.Close()
	index := number(a.Header, etcdv2.HeaderIndex)
	s.forget(q.key)
	if a.Status/100 == 2 {
		s.changed(q.key, index)
	}
	s.told(who.client, a.Header.Get(etcdv2.HeaderClusterID), index)
	s.pass(w, r, a)
}

// forget has reads about a key go to the cluster.
func (s *Server) forget(key string) {
	if s.cache != nil {
		s.cache.suspect(key)
	}
}

// changed notes a change that somebody is going to be told of.
func (s *Server) changed(key string, index kv.Index) {
	s.clients.change(index)
	if s.cache != nil {
		s.cache.change(key, index)
	}
}

// serveState answers for one of the endpoints.
func (s *Server) serveState(w http.ResponseWriter, r *http.Request) {
	query := url.Values{}
	for _, name := range []string{"serializable", "exclude"} {
		if given := r.URL.Query()[name]; given != nil {
			query[name] = given
		}
	}
	a, err := s.relay(r, caller{}, etcdv2.Request{Method: r.Method, Path: r.URL.Path, Query: query}, true)
	if err != nil {
		s.counts.failures.Add(1)
		body, _ := json.Marshal(map[string]string{"health": "false", "reason": err.Error()}) // strings always encode
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write(body)
		return
	}
	defer a.Body.Close()
	s.pass(w, r, a)
}

// serveMembers names the gateway as the one member: clients that keep to the members they are told of would
// otherwise leave it for addresses that a container cannot reach, and that no rule holds for.
func (s *Server) serveMembers(w http.ResponseWriter, r *http.Request, leader bool) {
	host, _ := os.Hostname() // "" will do
	sum := fnv.New64a()
	io.WriteString(sum, "kvagent "+host)
	member := kvclient.Member{ID: strconv.FormatUint(sum.Sum64(), 16), Name: "gateway", PeerURLs: []string{}, ClientURLs: []string{ownURL(r)}}
	var answer any = member
	if !leader {
		answer = map[string][]kvclient.Member{"members": {member}}
	}
	body, err := json.Marshal(answer)
	if err != nil { // strings always encode
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if id := s.clients.clusterID(); id != "" {
		w.Header().Set(etcdv2.HeaderClusterID, id)
	}
	_, _ = w.Write(append(body, '\n')) // a client that has gone cannot be told
}

// ownURL returns the URL of the gateway as the client of a request knows it.
func ownURL(r *http.Request) string {
	host := r.Host
	if host == "" {
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "tcp" {
			host = local.String()
		} else {
			host = "localhost"
		}
	}
	return (&url.URL{Scheme: "http", Host: host}).String()
}

// private are headers between two neighbours. Date is told anew.
var private = []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Te", "Trailer", "Upgrade", "Proxy-Authenticate", "Proxy-Connection", "Content-Length", "Date"}

// pass answers with a, part by part.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, a *kvclient.Relayed) {
	header := w.Header()
	for name, values := range a.Header {
		if !slices.Contains(private, name) {
			header[name] = values
		}
	}
	if a.Length >= 0 {
		header.Set("Content-Length", strconv.FormatInt(a.Length, 10))
	}
	w.WriteHeader(a.Status)
	if r.Method == http.MethodHead {
		return
	}
	part := make([]byte, 32<<10)
	for {
		n, err := a.Body.Read(part)
		if n > 0 && send(w, part[:n]) != nil {
			return
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the client must not take that for all
		}
	}
}

// send writes part, which the client has to take in answerTimeout.
func send(w http.ResponseWriter, part []byte) error {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(answerTimeout))
	_, err := w.Write(part)
	_ = control.SetWriteDeadline(time.Time{})
	return err
}

// answersTo reports whether host, as it stands in a Host header, can mean this gateway. A web page can have the
// name of its own server lead here; it has a dot, and none of the endings that no such name has.
func (s *Server) answersTo(host string) bool {
	if host == "" {
		return true
	}
	if _, err := netip.ParseAddrPort(host); err == nil {
		return true
	}
	name := withoutPort(host)
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	name = plainHost(name)
	return !strings.ContainsAny(name, "[].") && name != "" || s.hosts[name] || strings.HasSuffix(name, ".internal") || strings.HasSuffix(name, ".localhost")
}

func plainHost(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func withoutPort(host string) string {
	name, _, err := net.SplitHostPort(host)
	if err != nil { // there is none
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return name
}
