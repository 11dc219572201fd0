// Package templates holds the proxy templates that are shipped with kvconfd. Each directory is a
// configuration directory of its own, to be used in place (kvconfd -confdir templates/haproxy) or
// copied to /etc/kvconfd: conf.d, templates, and keys to try it with.
//
// It knows no programs: it is files, and the files as an fs.FS for those who carry them along.
package templates

import "embed"

// FS holds haproxy/conf.d, haproxy/templates, haproxy/sample.yaml and the same for each other program.
//
//go:embed */conf.d */templates */sample.yaml
var FS embed.FS
