package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/kv"
)

// leaseQuestion is what a member asks the leader about leases.
type leaseQuestion struct {
	Lease kv.LeaseID `json:"lease,omitempty"`
	All   bool       `json:"all,omitempty"` // instead of one
	After kv.LeaseID `json:"after,omitempty"`
}

// leaseAnswer is the leader's answer.
type leaseAnswer struct {
	Lease  kv.Lease   `json:"lease"`
	Leases []kv.Lease `json:"leases,omitempty"`
	Index  kv.Index   `json:"index,omitempty"`
	Error  *wireError `json:"error,omitempty"`
}

// wireError is a kv.Error on its way between members.
type wireError struct {
	Op    string   `json:"op,omitempty"`
	Key   string   `json:"key,omitempty"`
	Kind  kv.Kind  `json:"kind"`
	Cause string   `json:"cause,omitempty"`
	Index kv.Index `json:"index,omitempty"`
}

func wireErrorOf(err error) *wireError {
	var e *kv.Error
	if errors.As(err, &e) {
		return &wireError{Op: e.Op, Key: e.Key, Kind: e.Kind, Cause: e.Cause, Index: e.Index}
	}
	return &wireError{Kind: kv.Internal, Cause: err.Error()}
}

func (e *wireError) err() error {
	return &kv.Error{Op: e.Op, Key: e.Key, Kind: e.Kind, Cause: e.Cause, Index: e.Index}
}

// askLeader asks until a leader has answered. Both kinds of question may be asked twice.
func (s *Service) askLeader(ctx context.Context, method raftnode.Method, q leaseQuestion) (leaseAnswer, error) {
	request, err := json.Marshal(q)
	if err != nil {
		return leaseAnswer{}, fmt.Errorf("ask the leader: %w", err)
	}
	for {
		text, err := s.log.AskLeader(ctx, method, request)
		if kv.Is(err, kv.Unknown) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return leaseAnswer{}, err
		}
		var answer leaseAnswer
		if err := json.Unmarshal(text, &answer); err != nil {
			return leaseAnswer{}, fmt.Errorf("the answer of the leader: %w", err)
		}
		if answer.Error != nil {
			return leaseAnswer{}, answer.Error.err()
		}
		return answer, nil
	}
}

// AnswerRenew answers a member that has been asked to keep a lease alive; it has looked after the right
// to do that.
func (s *Service) AnswerRenew(ctx context.Context, _ uint64, request []byte) ([]byte, error) {
	return answerLease(request, func(q leaseQuestion) (answer leaseAnswer, err error) {
		answer.Lease, err = s.keepAliveLeading(ctx, q.Lease, permit)
		return answer, err
	})
}

// AnswerLease answers a member that has been asked about leases.
func (s *Service) AnswerLease(ctx context.Context, _ uint64, request []byte) ([]byte, error) {
	return answerLease(request, func(q leaseQuestion) (leaseAnswer, error) { return s.lookLeading(ctx, q) })
}

func answerLease(request []byte, answer func(leaseQuestion) (leaseAnswer, error)) ([]byte, error) {
	var q leaseQuestion
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, fmt.Errorf("%w: %w", raftnode.ErrNotHandled, err)
	}
	a, err := answer(q)
	if kv.Is(err, kv.NoLeader) {
		return nil, raftnode.ErrNotHandled
	}
	if err != nil {
		a.Error = wireErrorOf(err)
	}
	return json.Marshal(a)
}
