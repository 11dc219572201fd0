package ctl_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// register registers instances as kvagent on a host does, until t ends or the returned function is called.
func register(t *testing.T, url, host string, records ...registry.Record) (stop func()) {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	wishes, err := override.NewSource(override.SourceConfig{Store: client})
	if err != nil {
		t.Fatal(err)
	}
	publisher := registry.NewPublisher(registry.PublisherConfig{Store: client, Leaser: client.Leaser(), Owner: registry.StandingOwner(host, "kvagent-0123456789abcdef", host)})
	r := registrar.New(registrar.Config{Publisher: publisher, Overrides: wishes})
	var offers []registrar.Offer
	for _, record := range records {
		record.Host, record.Protocol = host, "tcp"
		offers = append(offers, registrar.Offer{Record: record, Source: "docker", State: workload.Running, Run: "1"})
	}
	r.Set(offers)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		client.Close()
	})
	t.Cleanup(stop)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if status := publisher.Status(); status.Registered == len(records) && status.Err == nil {
			return stop
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", publisher.Status())
		}
	}
}

func web(instance, address string) registry.Record {
	return registry.Record{Service: "web", Instance: instance, Address: address, Port: 80, Tags: []string{"blue", "v2"}}
}

func TestInstancesAreShownTakenOutAndPutBack(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	want(t, url, 0, "", "", "service", "ls")
	want(t, url, 4, "", "no instance of web is registered below /services", "service", "ls", "web")
	register(t, url, "h1", web("h1_shop_80", "10.0.0.7"), registry.Record{Service: "db", Instance: "h1_db_5432", Address: "10.0.0.7", Port: 5432, Weight: 7, Meta: map[string]string{"zone": "a"}})
	register(t, url, "h2", web("h2_shop_80", "fd00::8"))

	got := want(t, url, 0, "INSTANCE", "", "service", "ls")
	for _, line := range []string{
		"db/h1_db_5432   up     7       10.0.0.7:5432  h1    -        15s      -",
		"web/h1_shop_80  up     -       10.0.0.7:80    h1    blue,v2  15s      -",
		"web/h2_shop_80  up     -       [fd00::8]:80   h2    blue,v2  15s      -",
	} {
		if !strings.Contains(got.stdout, line) {
			t.Errorf("no line\n%s\nin\n%s", line, got.stdout)
		}
	}
	if got := want(t, url, 0, "web/h1", "", "service", "ls", "web"); strings.Contains(got.stdout, "db/") {
		t.Errorf("the instances of web are\n%s", got.stdout)
	}
	got = want(t, url, 0, "Registered by:  kvagent\n", "", "service", "get", "db/h1_db_5432")
	for _, part := range []string{"Weight:         7\n", "Meta zone:      a\n", "Lease:", "Wanted:         -"} {
		if !strings.Contains(got.stdout, part) {
			t.Errorf("no %q in\n%s", part, got.stdout)
		}
	}
	want(t, url, 4, "", "web/nobody is not registered below /services", "service", "get", "web/nobody")

	want(t, url, 0, "web/h1_shop_80: drain: kernel update\n", "", "--username", "anna:x", "service", "drain", "web/h1_shop_80", "--reason", "kernel update", "--wait")
	want(t, url, 0, "web/h1_shop_80  draining", "", "service", "ls", "web")
	want(t, url, 0, "Wanted by:      anna@", "", "service", "get", "web/h1_shop_80")
	want(t, url, 0, "drain: kernel update", "", "service", "get", "web/h1_shop_80")
	want(t, url, 4, "", "Error:  not done: web/h2_shop_80 is the last instance of web that is up: nobody would serve it\nhint: put another instance", "service", "maintenance", "web/h2_shop_80")
	want(t, url, 0, "web/h2_shop_80: maintenance", "is the last instance of web that is up", "service", "maintenance", "web/h2_shop_80", "--wait", "--accept-risk", "last-instance")
	want(t, url, 0, "web/h2_shop_80  maintenance", "", "service", "overrides")
	want(t, url, 0, "web/h1_shop_80: ready\nweb/h2_shop_80: ready\n", "", "service", "ready", "web/h1_shop_80", "web/h2_shop_80", "--wait")
	if got := want(t, url, 0, "", "", "service", "overrides"); got.stdout != "" {
		t.Errorf("nothing is wanted any more, but\n%s", got.stdout)
	}

	want(t, url, 0, "db/h1_db_5432: weight 100\n", "", "service", "weight", "db/h1_db_5432", "100", "--wait")
	want(t, url, 0, "up     100", "", "service", "ls", "db")
	want(t, url, 0, "db/h1_db_5432: ready\n", "", "service", "weight", "db/h1_db_5432", "0", "--wait")

	want(t, url, 4, "", "db/h1_db_5432 is the last instance of db", "service", "drain", "--host", "h1")
	want(t, url, 0, "db/h1_db_5432: drain: reboot\nweb/h1_shop_80: drain: reboot\n", "", "service", "drain", "--host", "h1", "--reason", "reboot", "--accept-risk", "last-instance", "--wait")
	want(t, url, 0, "db/h1_db_5432: ready\nweb/h1_shop_80: ready\n", "", "service", "ready", "--host", "h1", "--wait")
	want(t, url, 4, "", "no instance of host h9 is registered below /services", "service", "drain", "--host", "h9")
	want(t, url, 4, "", "that takes out every instance of web that is up", "service", "drain", "web/h1_shop_80", "web/h2_shop_80")
}

func TestWhatIsWantedOfAnInstanceThatIsNotThereIsSaidAndCleared(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	want(t, url, 0, "web/gone: drain\n", "web/gone is not registered now: this counts when it is\n", "service", "drain", "web/gone")
	want(t, url, 4, "", "web/gone is not registered: nobody is there to act on it\nhint: it was written", "service", "drain", "web/gone", "--wait")
	want(t, url, 0, "web/gone  drain   -       not registered", "", "service", "overrides")
	want(t, url, 4, "", "wanted of it: drain", "service", "get", "web/gone")
	want(t, url, 4, "", "something is wanted of web/gone, which", "service", "ready", "--host", "h1")
	want(t, url, 0, "web/gone: ready\n", "", "service", "ready", "web/gone")
	if got := want(t, url, 0, "", "", "service", "overrides"); got.stdout != "" {
		t.Errorf("still wanted:\n%s", got.stdout)
	}
}

func TestWhoeverDoesNotActOnADrainIsNamed(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	put := func(record registry.Record) {
		t.Helper()
		value, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		want(t, url, 0, "", "", "set", record.Key("/services"), string(value))
	}
	one := web("one", "10.0.0.1")
	one.State, one.Protocol = registry.StateUp, "tcp"
	put(one)
	one.Instance, one.Owner, one.Host = "two", registry.StandingOwner("h2", "kvagent", "x"), "h2"
	put(one)
	want(t, url, 5, "", "after 300ms web/one is up, and not as it is wanted\nhint: its record names no owner", "--total-timeout", "300ms", "service", "drain", "web/one", "--wait")
	want(t, url, 0, "", "", "service", "ready", "web/one")
	want(t, url, 5, "", "its record has no TTL", "--total-timeout", "300ms", "service", "drain", "web/two", "--wait")

	stop := register(t, url, "h3", web("three", "10.0.0.3"), web("four", "10.0.0.4"))
	stop() // its records go with it
	want(t, url, 4, "", "web/three is not registered: nobody is there to act on it", "service", "drain", "web/three", "--wait")
}

func TestKeysThatAreNoRecordsAreLeftOutAndNamed(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	register(t, url, "h1", web("a", "10.0.0.1"))
	want(t, url, 0, "", "", "set", "/services/web/plain", "10.0.0.1:80")
	want(t, url, 0, "", "", "set", "/services/web/other", `{"service":"web","instance":"a","address":"10.0.0.1","port":80,"protocol":"tcp","state":"up"}`)
	want(t, url, 0, "", "", "set", "/services-override/web/a", "nonsense")
	got := want(t, url, 0, "web/a", "left out: /services/web/other: it names itself web/a\nleft out: /services/web/plain: not a service record", "service", "ls")
	if strings.Contains(got.stdout, "plain") || !strings.Contains(got.stderr, "/services-override/web/a: not an override") {
		t.Errorf("%+v", got)
	}
}

func TestServiceCommandsSayWhatIsWrongWithTheirArguments(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	for _, c := range []struct{ words, says string }{
		{"service drain", "instance required"},
		{"service drain web", `"web" is no instance`},
		{"service drain web/", `"web/" is no instance`},
		{"service drain web/a/b", `"web/a/b" is no instance`},
		{"service drain web/a --host h1", "--host names the instances already"},
		{"service drain web/a --accept-risk all", "there is no such risk"},
		{"service weight web/a", "instance and weight required"},
		{"service weight web/a 257", `"257" is no weight`},
		{"service weight web/a ten", `"ten" is no weight`},
		{"service get", "one instance required"},
		{"service ls --prefix services", "must begin with a slash"},
		{"service overrides x", "unexpected argument"},
	} {
		want(t, url, 1, "", c.says, strings.Fields(c.words)...)
	}
	want(t, url, 1, "", "control bytes", "service", "drain", "web/a", "--reason", "a\nb")
}

func TestServiceJSONHasTheRecordAndWhatIsWanted(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	register(t, url, "h1", web("a", "10.0.0.1"), web("b", "10.0.0.2"))
	want(t, url, 0, `{"overrides":[{"instance":"web/a","mode":"drain","reason":"why","by":`, "", "-o", "json", "service", "drain", "web/a", "--reason", "why", "--wait")
	var list struct {
		Instances []struct {
			registry.Record
			Key      string
			TTL      int64
			Lease    string
			Override override.Override
		}
	}
	if err := json.Unmarshal([]byte(kvctl(t, url, "-o", "json", "service", "ls").stdout), &list); err != nil || len(list.Instances) != 2 {
		t.Fatalf("%v: %+v", err, list)
	}
	a := list.Instances[0]
	if a.Instance != "a" || a.State != registry.StateDraining || a.Key != "/services/web/a" || a.TTL < 1 || a.Lease == "" || a.Override.Mode != override.Drain || a.Override.At.IsZero() {
		t.Errorf("%+v", a)
	}
	want(t, url, 0, `{"instances":[]}`, "", "-o", "json", "service", "ls", "--prefix", "/elsewhere")
}

func TestAWatchOfServicesTellsStatesAsTheyChange(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	stop := register(t, url, "h1", web("a", "10.0.0.1"), web("b", "10.0.0.2"))
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr output
	ended := make(chan int, 1)
	go func() {
		ended <- call{endpoint: url, args: []string{"service", "watch", "web"}}.start(ctx, &stdout, &stderr)
	}()
	stdout.waitFor(t, "web/a up 10.0.0.1:80 blue,v2\n")
	want(t, url, 0, "", "", "service", "drain", "web/a")
	stdout.waitFor(t, "web/a up -> draining 10.0.0.1:80 blue,v2\n")
	want(t, url, 0, "", "", "service", "weight", "web/b", "9")
	stdout.waitFor(t, "web/b up 10.0.0.2:80 weight 9")
	stop()
	stdout.waitFor(t, "web/a draining -> gone 10.0.0.1:80")
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("code %d: %s", code, &stderr)
	}
}

func TestInstancesAreCompleted(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	register(t, url, "h1", web("a", "10.0.0.1"), web("b", "10.0.0.2"))
	want(t, url, 0, "web/\n", "", "__complete", "service", "drain", "w")
	want(t, url, 0, "web/a\nweb/b\n", "", "__complete", "service", "drain", "web/")
}
