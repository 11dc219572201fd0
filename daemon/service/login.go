package service

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

const (
	// hashCost is bcrypt's: about 60 ms of one processor a password.
	hashCost = 10
	// passwordBytesMax is what bcrypt looks at; it would take two passwords that differ after it for one.
	passwordBytesMax = 72
	// nobodysHash is compared with the password of a user that is not there, so that the answer takes
	// as long as for one that is.
	nobodysHash = "$2a$10$Rak9YM89j9ns.KUlqIGEueLVznu6akQfzHrvn44svPdq33BszQF0m"

	// knownMax is how many users' passwords are remembered as right.
	knownMax = 4096
	// loginsWaiting is how many requests may wait for their password to be looked at.
	loginsWaiting = 1024
	// originsMax is how many origins of failed logins are remembered.
	originsMax = 4096
)

// What an origin may get wrong before passwords from it are not even looked at.
var (
	failuresOfUser = rate{burst: 10, every: 5 * time.Second}        // with one user's name from one address
	failuresOfHost = rate{burst: 50, every: 200 * time.Millisecond} // with any names from one address
)

// logins checks passwords. A password that was right is recognised again by a keyed digest, so that
// only the first request of a user pays for bcrypt. What bcrypt costs is bounded: in parallel by
// slots, and for each origin by what it gets wrong. It is safe for concurrent use.
type logins struct {
	now   func() time.Time
	cost  int           // of new hashes, bcrypt's
	key   [32]byte      // of the digests, random and of this process alone
	queue chan struct{} // holds a token for each request that waits or has a slot
	slots chan struct{} // holds a token for each bcrypt that runs

	mu     sync.Mutex // guards the fields below
	known  map[string]proof
	failed map[origin]*bucket
}

// proof is the digest of the password that belongs to a hash.
type proof struct {
	digest [sha256.Size]byte
	hash   command.Secret
}

// origin is where failed logins come from; user is the digest of a name, zero for all of an address.
type origin struct {
	host netip.Prefix
	user [sha256.Size]byte
}

func newLogins(now func() time.Time, cost int) *logins {
	l := &logins{
		now: now, cost: cost, known: map[string]proof{}, failed: map[origin]*bucket{},
		queue: make(chan struct{}, loginsWaiting), slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	rand.Read(l.key[:]) // never fails
	return l
}

// check reports whether password is that of the user with this hash; hash is "" for a user that is not
// there. source is the address of who asks. Errors: Unavailable when too many others wait, Timeout.
func (l *logins) check(ctx context.Context, user string, password, hash command.Secret, source string) (bool, error) {
	digest := l.digest(user, password)
	if l.isKnown(user, digest, hash) {
		return true, nil
	}
	release, err := l.slot(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	if l.isKnown(user, digest, hash) { // by a request that waited before this one
		return true, nil
	}
	byHost := origin{host: hostOf(source)}
	byUser := origin{byHost.host, l.digest(user, "")} // of a bounded size, whatever the name is
	if !l.mayTry(byUser) || !l.mayTry(byHost) {
		return false, nil
	}
	compared := hash
	if hash == "" {
		compared = nobodysHash
	}
	right := bcrypt.CompareHashAndPassword([]byte(compared), []byte(password)) == nil && hash != "" && len(password) <= passwordBytesMax
	l.mu.Lock()
	defer l.mu.Unlock()
	if !right {
		l.noteFailure(byUser, failuresOfUser)
		l.noteFailure(byHost, failuresOfHost)
		return false, nil
	}
	makeRoom(l.known, knownMax)
	l.known[user] = proof{digest, hash}
	return true, nil
}

// hash returns the bcrypt hash of a new password. Errors: Invalid, Unavailable, Timeout.
func (l *logins) hash(ctx context.Context, password command.Secret) (command.Secret, error) {
	if len(password) > passwordBytesMax {
		return "", &kv.Error{Op: "access control", Kind: kv.Invalid,
			Cause: fmt.Sprintf("The password has %d bytes, more than the %d that count", len(password), passwordBytesMax)}
	}
	release, err := l.slot(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), l.cost)
	return command.Secret(hash), err
}

// slot waits for the right to run bcrypt.
func (l *logins) slot(ctx context.Context) (release func(), err error) {
	select {
	case l.queue <- struct{}{}:
	default:
		return nil, &kv.Error{Op: "log in", Kind: kv.Unavailable, Cause: fmt.Sprintf("%d requests wait for their passwords to be checked", loginsWaiting)}
	}
	select {
	case l.slots <- struct{}{}:
		return func() { <-l.slots; <-l.queue }, nil
	case <-ctx.Done():
		<-l.queue
		return nil, &kv.Error{Op: "log in", Kind: kv.Timeout, Err: ctx.Err()}
	}
}

// digest is of the user's name too: one user's password proves nothing of another.
func (l *logins) digest(user string, password command.Secret) (digest [sha256.Size]byte) {
	mac := hmac.New(sha256.New, l.key[:])
	mac.Write(binary.AppendUvarint(nil, uint64(len(user))))
	mac.Write([]byte(user))
	mac.Write([]byte(password))
	mac.Sum(digest[:0])
	return digest
}

// isKnown reports whether the digest is of the password that this hash was found to belong to. A user
// whose password has changed has another hash.
func (l *logins) isKnown(user string, digest [sha256.Size]byte, hash command.Secret) bool {
	l.mu.Lock()
	known, ok := l.known[user]
	l.mu.Unlock()
	return ok && hash != "" && known.hash == hash && hmac.Equal(known.digest[:], digest[:])
}

// mayTry reports whether the origin has something left that it may get wrong.
func (l *logins) mayTry(o origin) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.failed[o]
	return !ok || b.has(l.now())
}

// noteFailure is called with mu held.
func (l *logins) noteFailure(o origin, r rate) {
	b, ok := l.failed[o]
	if !ok {
		makeRoom(l.failed, originsMax)
		b = newBucket(r, l.now())
		l.failed[o] = b
	}
	b.take(l.now())
}

// makeRoom drops an entry, whichever, from a table that is full.
func makeRoom[K comparable, V any](table map[K]V, size int) {
	for key := range table {
		if len(table) < size {
			return
		}
		delete(table, key)
	}
}

// hostOf returns the network that an address, "host:port", stands for: of IPv6, where one machine has
// as many addresses as it likes, the first half.
func hostOf(source string) netip.Prefix {
	at, err := netip.ParseAddrPort(source)
	if err != nil {
		return netip.Prefix{} // a pipe or a test: all of them are one
	}
	addr := at.Addr().Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	network, _ := addr.Prefix(bits) // these lengths always fit
	return network
}

// rate is how often something may happen: burst times at once, and once more after each every.
type rate struct {
	burst float64
	every time.Duration
}

// bucket keeps to a rate. It is not safe for concurrent use.
type bucket struct {
	rate
	left float64
	at   time.Time
}

func newBucket(r rate, now time.Time) *bucket { return &bucket{rate: r, left: r.burst, at: now} }

func (b *bucket) has(now time.Time) bool {
	b.left = min(b.burst, b.left+float64(now.Sub(b.at))/float64(b.every))
	b.at = now
	return b.left >= 1
}

func (b *bucket) take(now time.Time) bool {
	ok := b.has(now)
	if ok {
		b.left--
	}
	return ok
}
