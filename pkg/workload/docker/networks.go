package docker

import (
	"context"
	"net/netip"
	"net/url"
)

const networkMax = 16 << 20 // bytes of an answer about a network, which names its containers

// Subnets returns the addresses of the engine's network of that name or id, none if there is no such network.
// An entry that is no prefix is left out. The error says what to do about an engine that does not answer.
func (s *Source) Subnets(ctx context.Context, network string) ([]netip.Prefix, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	defer s.api.client.CloseIdleConnections() // it is asked seldom
	api, err := s.api.connect(ctx)
	if err != nil {
		return nil, explain(err, s.cfg.Host)
	}
	var answer struct {
		IPAM struct {
			Config []struct{ Subnet string }
		}
	}
	err = api.decode(ctx, "/networks/"+url.PathEscape(network), networkMax, &answer)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explain(err, s.cfg.Host)
	}
	var list []netip.Prefix
	for _, one := range answer.IPAM.Config {
		if prefix, err := netip.ParsePrefix(one.Subnet); err == nil {
			list = append(list, prefix.Masked())
		}
	}
	return list, nil
}
