package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/pkg/listening"
)

func parsePlace(text string) (listening.Place, error) {
	p, isSocket, err := listening.ParseSocket(text)
	if !isSocket {
		p, err = listening.Parse(text)
	}
	if err != nil {
		return p, fmt.Errorf("--gateway-listen %q: %w; use ADDRESS:PORT, INTERFACE:PORT such as docker0:2379, or unix:PATH", text, err)
	}
	return p, nil
}

// parsePlaces reads Config.Listen.
func parsePlaces(cfg Config) (list []listening.Place, err error) {
	for _, text := range cfg.Listen {
		p, err := parsePlace(text)
		if err != nil {
			return nil, err
		}
		if p.Everywhere() && len(cfg.Allow) == 0 {
			return nil, errors.New("a gateway at every address of this machine needs to be told who may do what: name networks with --gateway-allow, or an address or interface to listen at")
		}
		list = append(list, p)
	}
	return list, nil
}

// follow returns what serves connections at places.
func (s *Server) follow(places []listening.Place) *listening.Follower[*doorway] {
	return listening.New(listening.Config[*doorway]{
		Places: places,
		Open: func(ctx context.Context, spot listening.Spot) (*doorway, error) {
			listener, err := spot.Listen(ctx)
			if err != nil {
				return nil, err
			}
			return &doorway{Listener: listener, clients: s.clients}, nil
		},
		Serve: func(_ context.Context, d *doorway) { _ = s.server.Serve(d) }, // ends when d is closed
		Seen: func(d *doorway, spot listening.Spot) {
			networks := spot.Networks()
			d.networks.Store(&networks)
		},
		Doing: "listening", Log: s.log,
	})
}

// Taken returns an error if another process has one of the addresses or sockets now, before Run. What cannot be
// had for another reason, as an address that is yet to come, is no error.
func (s *Server) Taken() error {
	if err := s.places.Taken(); err != nil {
		s.store.Close()
		return fmt.Errorf("--gateway-listen %w", err)
	}
	return nil
}
