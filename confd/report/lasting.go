package report

import "regexp"

// Lasting returns what an error says without what differs at each retry: the names of staged files, and the time and
// the numbers of processes that commands print.
func Lasting(text string) string { return varying.ReplaceAllString(text, "") }

var varying = regexp.MustCompile(`\.[0-9]{6,}` +
	`|[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}` +
	`|[0-9]{2}:[0-9]{2}:[0-9]{2}([.,][0-9]+)?` +
	`|\b[0-9]+#[0-9]+:` + // nginx
	`|\([0-9]+\) :` + // HAProxy
	`|\[[0-9]+\]` +
	`|\b(?i:pid|process)[ :=]+[0-9]+`)
