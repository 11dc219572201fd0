package ctl

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

func endpointCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "endpoint COMMAND", Short: "ask each endpoint how it is", GroupID: groupCluster,
		Long: `Ask each endpoint how it is: those of --endpoints, or with --cluster those of all members.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var all bool
	cmd.PersistentFlags().BoolVar(&all, "cluster", false, "ask the endpoints of all members")
	cmd.AddCommand(
		&cobra.Command{Use: "health", Short: "show which endpoints can read what most members have", RunE: s.run(each(s, &all, endpointHealth))},
		&cobra.Command{Use: "status", Short: "show who is behind each endpoint, and how far it is", RunE: s.run(each(s, &all, endpointStatus))},
	)
	return cmd
}

// endpoint is one address and a client for it alone.
type endpoint struct {
	url    string
	client *kvclient.Client
}

// each returns the action of a command that asks every endpoint by itself.
func each(s *settings, all *bool, act func(ctx context.Context, c *session, list []endpoint) error) action {
	return func(ctx context.Context, c *session, args []string) error {
		if err := noMoreWords(args, 0); err != nil {
			return err
		}
		list, done, err := c.endpoints(ctx, *all)
		if err != nil {
			return err
		}
		defer done()
		return act(ctx, c, list)
	}
}

// endpoints returns those that were given, or those of all members; done closes them.
func (c *session) endpoints(ctx context.Context, all bool) (list []endpoint, done func(), err error) {
	urls := c.settings.client.Endpoints
	if len(urls) == 0 {
		urls = []string{kvclient.DefaultEndpoint}
	}
	if all {
		members, err := c.client.Members(ctx)
		if err != nil {
			return nil, nil, err
		}
		urls = nil
		for _, m := range members {
			urls = append(urls, m.ClientURLs...)
		}
	}
	done = func() {
		for _, e := range list {
			e.client.Close()
		}
	}
	for _, url := range urls {
		cfg := c.config
		cfg.Endpoints = []string{url}
		client, err := kvclient.New(cfg)
		if err != nil {
			done()
			return nil, nil, &usageError{text: err.Error()}
		}
		list = append(list, endpoint{url, client})
	}
	return list, done, nil
}

// ask calls f for each endpoint at the same time, and waits for all.
func ask(list []endpoint, f func(i int, e endpoint)) {
	var asking sync.WaitGroup
	for i, e := range list {
		asking.Go(func() { f(i, e) })
	}
	asking.Wait()
}

// endpointHealthJSON is one endpoint in the answer of endpoint health.
type endpointHealthJSON struct {
	Endpoint string  `json:"endpoint"`
	Healthy  bool    `json:"healthy"`
	TookMs   float64 `json:"tookMs"`
	Problem  string  `json:"problem,omitempty"`
}

func endpointHealth(ctx context.Context, c *session, list []endpoint) error {
	answers, problems := make([]endpointHealthJSON, len(list)), make([]error, len(list))
	ask(list, func(i int, e endpoint) {
		begun := time.Now()
		err := e.client.Health(ctx)
		problems[i] = err
		answers[i] = endpointHealthJSON{Endpoint: e.url, Healthy: err == nil, TookMs: float64(time.Since(begun).Microseconds()) / 1000}
		if err != nil {
			answers[i].Problem = diagnose(err).Message
		}
	})
	var lines []string
	for _, a := range answers {
		line := fmt.Sprintf("%s is healthy: took %v ms", a.Endpoint, a.TookMs)
		if !a.Healthy {
			line = a.Endpoint + " is unhealthy: " + a.Problem
		}
		lines = append(lines, line)
	}
	c.names(lines, struct {
		Endpoints []endpointHealthJSON `json:"endpoints"`
	}{answers})
	return unwell(problems)
}

// unwell returns the error of a command that has told of everything already: nil if there is nothing.
func unwell(problems []error) error {
	bad, reached := 0, false
	for _, err := range problems {
		if err != nil {
			bad++
		}
		var e *kv.Error // with a cause, it is what an endpoint has said
		reached = reached || !kv.Is(err, kv.Unavailable) || errors.As(err, &e) && e.Cause != ""
	}
	switch {
	case bad == 0:
		return nil
	case !reached:
		return &toldError{exitUnreachable}
	}
	return &toldError{exitServer}
}

// toldError is an exit code after everything has been said on stdout.
type toldError struct{ code int }

func (e *toldError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// endpointStatusJSON is one endpoint in the answer of endpoint status.
type endpointStatusJSON struct {
	Endpoint string `json:"endpoint"`
	kvclient.ClusterMember
	Cluster string `json:"cluster,omitempty"`
	Term    uint64 `json:"term,omitempty"`
	Problem string `json:"problem,omitempty"`
}

func endpointStatus(ctx context.Context, c *session, list []endpoint) error {
	answers, problems := make([]endpointStatusJSON, len(list)), make([]error, len(list))
	ask(list, func(i int, e endpoint) {
		answers[i].Endpoint = e.url
		v, err := e.client.Cluster(ctx)
		if problems[i] = err; err != nil {
			answers[i].Problem = diagnose(err).Message
			return
		}
		answers[i].Cluster, answers[i].Term = v.ID, v.Term
		for _, m := range v.Members {
			if m.ID == v.Member {
				answers[i].ClusterMember = m
			}
		}
	})
	rows := [][]string{{"ENDPOINT", "ID", "NAME", "ROLE", "STATE", "TERM", "APPLIED", "VERSION"}}
	for _, a := range answers {
		row := []string{a.Endpoint, "-", "-", "-", "unreachable", "-", "-", "-", a.Problem}
		if a.Problem == "" {
			row = []string{a.Endpoint, a.ID, dash(a.Name), a.Role, stateOf(a.ClusterMember), fmt.Sprint(a.Term), numberOf(a.AppliedIndex), dash(text(a.Version))}
		}
		rows = append(rows, row)
	}
	c.said(table(rows), struct {
		Endpoints []endpointStatusJSON `json:"endpoints"`
	}{answers})
	return unwell(problems)
}
