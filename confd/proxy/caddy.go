package proxy

import "time"

// CaddyConfig says how to reach a running Caddy.
type CaddyConfig struct {
	Admin   string        // its admin endpoint: host:port, http://host:port, or unix//path; "": localhost:2019
	Timeout time.Duration // for one request, which for a load includes the start of the new configuration; 0: 10 s
}

// Caddy is the Applier for Caddy: a new version is loaded through the admin endpoint, atomically.
type Caddy struct {
	Generic
	cfg CaddyConfig
}

// NewCaddy returns an applier; nothing is asked yet.
func NewCaddy(cfg CaddyConfig) *Caddy { return &Caddy{cfg: cfg} }

var _ Applier = (*Caddy)(nil)
