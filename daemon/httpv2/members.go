package httpv2

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// memberJSON is the wire form of Member; the lists are never null.
type memberJSON struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

func encodeMember(m Member) memberJSON {
	return memberJSON{
		ID:         strconv.FormatUint(m.ID, 16),
		Name:       m.Name,
		PeerURLs:   append([]string{}, m.PeerURLs...),
		ClientURLs: append([]string{}, m.ClientURLs...),
	}
}

// serveMembers answers reads from what this member knows, and has members changed.
func (h *handler) serveMembers(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	name := strings.TrimPrefix(r.URL.Path[len(membersPath):], "/")
	switch r.Method {
	case http.MethodGet:
		h.readMembers(w, name)
	case http.MethodPost:
		h.addMember(w, r)
	default:
		h.changeMember(w, r, name)
	}
}

func (h *handler) readMembers(w http.ResponseWriter, name string) {
	members := h.Cluster.Members()
	switch name {
	case "":
		slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
		list := struct {
			Members []memberJSON `json:"members"`
		}{Members: make([]memberJSON, 0, len(members))}
		for _, m := range members {
			list.Members = append(list.Members, encodeMember(m))
		}
		h.replyJSON(w, http.StatusOK, list, "\n")
	case "leader":
		id, known := h.Cluster.LeaderID()
		at := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
		if !known || at < 0 {
			h.replyMessage(w, http.StatusServiceUnavailable, "During election")
			return
		}
		h.replyJSON(w, http.StatusOK, encodeMember(members[at]), "\n")
	default:
		h.replyMessage(w, http.StatusNotFound, "Not found")
	}
}

// serveMachines answers with all client URLs, for clients older than /v2/members.
func (h *handler) serveMachines(w http.ResponseWriter, _ *http.Request) {
	var urls []string
	for _, m := range h.Cluster.Members() {
		urls = append(urls, m.ClientURLs...)
	}
	slices.Sort(urls)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	h.reply(w, http.StatusOK, []byte(strings.Join(urls, ", ")))
}

// replyMessage answers with the error form of everything but keys. It ends without a newline.
func (h *handler) replyMessage(w http.ResponseWriter, status int, message string) {
	h.replyJSON(w, status, messageJSON{Message: message}, "")
}

type messageJSON struct {
	Message string `json:"message"`

	// Of what was surely not done, and may be asked for again:
	Kind  string `json:"kind,omitempty"` // the text of a kv.Kind
	Cause string `json:"cause,omitempty"`
}

func (h *handler) replyJSON(w http.ResponseWriter, status int, body any, end string) {
	encoded, err := json.Marshal(body)
	if err != nil { // strings and lists of strings always encode
		h.Log.Error("answer not encoded", "err", err)
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	h.reply(w, status, append(encoded, end...))
}
