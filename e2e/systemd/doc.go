// Package systemd tries the registrars on hosts whose PID 1 is systemd, with the units as they ship: what
// the registry says is compared with what is true, event by event, by an observer that follows the
// registry and one that asks the services themselves. A store, kvconfd and HAProxy run on this machine.
//
// A short form runs with the other tests. Longer ones:
//
//	KVD_SYSTEMD_ROUNDS=20       how often each event happens
//	KVD_SYSTEMD_OUTAGE=60s      how long the store is away
//	KVD_SYSTEMD_WITHIN=2s       how long registry and truth may differ; 15s without it
//	go test ./e2e/systemd -count=1 -v -timeout 2h
package systemd
