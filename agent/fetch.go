package agent

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Limits of what templates of tags fetch. What they make is decided while everything else waits.
const (
	fetchTimeout  = 2 * time.Second
	fetchBytesMax = 64 << 10
	fetchedMax    = 1024             // documents that are kept
	fetchedFor    = time.Minute      // how long a document is kept
	unfetchedFor  = 30 * time.Second // how long a server that failed is not asked again
)

var errUnfetched = errors.New("a document could not be fetched")

// fetcher is httpGet for templates: it asks each server and for each document seldom, however many
// workloads there are. Use newFetcher. It is safe for concurrent use.
type fetcher struct {
	client http.Client

	mu     sync.Mutex // guards the fields below; held while fetching, so that one document is asked for once
	kept   map[string]fetched
	failed map[string]failure // by server
}

type fetched struct {
	document []byte
	until    time.Time
}

type failure struct {
	err   error
	until time.Time
}

func newFetcher() *fetcher {
	return &fetcher{client: http.Client{Timeout: fetchTimeout}, kept: map[string]fetched{}, failed: map[string]failure{}}
}

// get returns the document at address. It blocks for at most fetchTimeout. Errors are errUnfetched.
func (f *fetcher) get(address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("httpGet %.80q: must be the URL of a document", address)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if found, ok := f.kept[address]; ok && now.Before(found.until) {
		return found.document, nil
	}
	if failed, ok := f.failed[u.Host]; ok && now.Before(failed.until) {
		return nil, failed.err
	}
	document, err := f.fetch(address)
	if err != nil {
		err = fmt.Errorf("httpGet: %w: %w", errUnfetched, err)
		makeRoom(f.failed)
		f.failed[u.Host] = failure{err, now.Add(unfetchedFor)}
		return nil, err
	}
	makeRoom(f.kept)
	f.kept[address] = fetched{document, now.Add(fetchedFor)}
	return document, nil
}

func (f *fetcher) fetch(address string) ([]byte, error) {
	response, err := f.client.Get(address)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	document, err := io.ReadAll(io.LimitReader(response.Body, fetchBytesMax+1))
	switch {
	case err != nil:
		return nil, err
	case len(document) > fetchBytesMax:
		return nil, fmt.Errorf("%s has more than %d bytes", address, fetchBytesMax)
	}
	return document, nil
}

// makeRoom empties a map that is full: it is a memory of the last minute.
func makeRoom[V any](m map[string]V) {
	if len(m) >= fetchedMax {
		clear(m)
	}
}
