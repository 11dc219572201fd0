package httpv2

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
)

// acceptRisk is the parameter, and its value, with which a change that loses the quorum is made all
// the same.
const (
	acceptRisk = "accept-risk"
	loseQuorum = "lose-quorum"
)

// memberChangeJSON is what a request says of a member. etcd knows peerURLs alone.
type memberChangeJSON struct {
	PeerURLs []string `json:"peerURLs"`
	Name     string   `json:"name"`
	Learner  bool     `json:"learner"`
}

func (h *handler) addMember(w http.ResponseWriter, r *http.Request) {
	change, ok := h.readMemberChange(w, r)
	if !ok {
		return
	}
	m, err := session(r).AddMember(r.Context(), service.NewMember{Name: change.Name, PeerURLs: change.PeerURLs, Learner: change.Learner})
	if err != nil {
		h.replyMemberError(w, err)
		return
	}
	h.replyJSON(w, http.StatusCreated, encodeMember(Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs}), "\n")
}

// changeMember changes the URLs of a member, or removes it. It is named by the path.
func (h *handler) changeMember(w http.ResponseWriter, r *http.Request, name string) {
	if name == "" {
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	id, err := strconv.ParseUint(name, 16, 64)
	if err != nil {
		h.replyMessage(w, http.StatusNotFound, "No such member: "+name)
		return
	}
	if r.Method == http.MethodDelete {
		risk, ok := h.risk(w, r)
		if !ok {
			return
		}
		err = session(r).RemoveMember(r.Context(), id, risk)
	} else {
		change, ok := h.readMemberChange(w, r)
		if !ok {
			return
		}
		err = session(r).UpdateMember(r.Context(), id, change.PeerURLs)
	}
	if err != nil {
		h.replyMemberError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// risk reports whether a request accepts that the quorum is lost, or answers what is wrong with it.
func (h *handler) risk(w http.ResponseWriter, r *http.Request) (accepted, ok bool) {
	query := r.URL.Query()
	if !query.Has(acceptRisk) {
		return false, true
	}
	if query.Get(acceptRisk) != loseQuorum {
		h.replyMessage(w, http.StatusBadRequest, "the only risk to accept is "+acceptRisk+"="+loseQuorum)
		return false, false
	}
	return true, true
}

// readMemberChange reads the body, or answers what is wrong with it, in the order and words of etcd.
func (h *handler) readMemberChange(w http.ResponseWriter, r *http.Request) (change memberChangeJSON, ok bool) {
	if !h.readTypedJSON(w, r, &change) {
		return change, false
	}
	var err error
	if change.PeerURLs, err = peerURLs(change.PeerURLs); err != nil {
		h.replyMessage(w, http.StatusBadRequest, err.Error())
		return change, false
	}
	return change, true
}

// readTypedJSON is readJSON for what etcd takes only if it is said to be JSON.
func (h *handler) readTypedJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	contentType := r.Header.Get("Content-Type")
	if kind, _, found := strings.Cut(contentType, ";"); found {
		contentType = strings.TrimSpace(strings.ToLower(kind))
	}
	if contentType != "application/json" {
		h.replyMessage(w, http.StatusUnsupportedMediaType, "Bad Content-Type "+contentType+", accept application/json")
		return false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.MaxRequestBytes))
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		h.replyMessage(w, http.StatusRequestEntityTooLarge, err.Error())
	case err != nil:
		h.replyMessage(w, http.StatusBadRequest, err.Error())
	}
	return err == nil
}

// peerURLs returns URLs in the one order in which a member has them. Errors are in etcd's words.
func peerURLs(list []string) ([]string, error) {
	if len(list) == 0 {
		return nil, errors.New("no valid URLs given")
	}
	urls := make([]string, len(list))
	for i, text := range list {
		text = strings.TrimSpace(text)
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		if u.Scheme != "http" && u.Scheme != "https" {
			return nil, errors.New("URL scheme must be http, https, unix, or unixs: " + text)
		}
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return nil, errors.New(`URL address does not have the form "host:port": ` + text)
		}
		if u.Path != "" {
			return nil, errors.New("URL must not contain a path: " + text)
		}
		urls[i] = u.String()
	}
	slices.Sort(urls)
	return slices.Compact(urls), nil
}

// replyMemberError answers as etcd does what it has an answer for. A change that would lose the quorum
// is a conflict here: of a 500, clients tell that the cluster has no leader.
func (h *handler) replyMemberError(w http.ResponseWriter, err error) {
	status, message := http.StatusInternalServerError, "Internal Server Error"
	var e *kv.Error
	switch {
	case !errors.As(err, &e):
	case errors.Is(err, service.ErrRemoved):
		status, message = http.StatusGone, e.Cause
	case errors.Is(err, service.ErrRisk), e.Kind == kv.Exists:
		status, message = http.StatusConflict, e.Cause
	case e.Kind == kv.NotFound:
		status, message = http.StatusNotFound, e.Cause
	case e.Kind == kv.Invalid:
		status, message = http.StatusBadRequest, e.Cause
	case e.Kind == kv.Denied:
		status, message = http.StatusUnauthorized, e.Cause
	}
	if status == http.StatusInternalServerError {
		h.Log.Warn("members were not changed", "err", err)
	}
	h.replyMessage(w, status, message)
}
