package proxy

import "time"

// NginxConfig says how to find a running nginx.
type NginxConfig struct {
	PidFile string        // of the master; required
	Wait    time.Duration // how long Confirm waits for the workers of a new generation; 0: 10 s
	Proc    string        // the proc file system; "": /proc
}

// Nginx is the Applier for nginx: every change takes a reload, and Confirm waits for the workers that
// the master starts once it has accepted the new configuration.
type Nginx struct {
	Generic
	cfg NginxConfig
}

// NewNginx returns an applier; nothing is asked yet.
func NewNginx(cfg NginxConfig) *Nginx { return &Nginx{cfg: cfg} }

var _ Applier = (*Nginx)(nil)
