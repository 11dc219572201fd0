package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is what wrk does: connections that ask without a pause.
type load struct {
	connections int
	path        string
	script      string // a file in Lua, "" for plain GETs
}

// command returns wrk's command line. One thread: a second would take the processor that the
// server has.
func (l load) command(url string, duration time.Duration) []string {
	// wrk counts whole seconds; a shorter load is cut off by its caller.
	seconds := max(1, int(duration.Round(time.Second)/time.Second))
	args := []string{"wrk", "-t1", fmt.Sprintf("-c%d", l.connections), fmt.Sprintf("-d%ds", seconds), "--latency"}
	if l.script != "" {
		args = append(args, "-s", l.script)
	}
	return append(args, url+l.path)
}

// sample is what one load of one server gave.
type sample struct {
	rate      float64 // answers a second
	cpu       time.Duration
	p50, p99  time.Duration
	bytesRate float64 // a second, as wrk counts them
}

// run loads s for duration, or longer if a machine that is too busy gives no answer in that time.
func (l load) run(ctx context.Context, s *server, duration time.Duration) (sample, error) {
	const longer = 6
	for range longer {
		got, err := l.once(ctx, s, duration)
		if err != nil || got.rate > 0 {
			return got, err
		}
		duration *= 2
	}
	return sample{}, fmt.Errorf("%s has given no answer in %v", s.name, duration/2)
}

// once loads s once.
func (l load) once(ctx context.Context, s *server, duration time.Duration) (sample, error) {
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	args := l.command(s.url, duration)
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	if duration < time.Second { // wrk reports what it has when it is interrupted
		timer := time.AfterFunc(duration, func() { cmd.Process.Signal(os.Interrupt) })
		defer timer.Stop()
	}
	if err := cmd.Wait(); err != nil {
		return sample{}, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, &output)
	}
	after, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	got, requests, err := parseWrk(output.Bytes())
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, &output)
	}
	got.cpu = (after - before) / time.Duration(max(requests, 1))
	return got, nil
}

var (
	wrkRequests = regexp.MustCompile(`(?m)^\s*(\d+) requests in`)
	wrkRate     = regexp.MustCompile(`(?m)^Requests/sec:\s*([0-9.]+)`)
	wrkBytes    = regexp.MustCompile(`(?m)^Transfer/sec:\s*([0-9.]+)([KMG]?B)`)
	wrkLatency  = regexp.MustCompile(`(?m)^\s*(50|99)%\s+([0-9.]+)(us|ms|s|m)`)
	wrkTrouble  = regexp.MustCompile(`(?m)^\s*(Socket errors:|Non-2xx).*$`)
)

// parseWrk reads wrk's report. An answer that is no success is an error: it would be measured as a
// fast one.
func parseWrk(output []byte) (s sample, requests int64, err error) {
	if trouble := wrkTrouble.Find(output); trouble != nil {
		return s, 0, fmt.Errorf("not every request was answered: %s", bytes.TrimSpace(trouble))
	}
	count, rate := wrkRequests.FindSubmatch(output), wrkRate.FindSubmatch(output)
	if count == nil || rate == nil {
		return s, 0, errors.New("no report of wrk")
	}
	requests, _ = strconv.ParseInt(string(count[1]), 10, 64)
	s.rate, _ = strconv.ParseFloat(string(rate[1]), 64)
	if m := wrkBytes.FindSubmatch(output); m != nil {
		s.bytesRate, _ = strconv.ParseFloat(string(m[1]), 64)
		s.bytesRate *= map[string]float64{"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}[string(m[2])]
	}
	for _, m := range wrkLatency.FindAllSubmatch(output, -1) {
		d, err := time.ParseDuration(string(m[2]) + string(m[3]))
		if err != nil {
			return s, 0, err
		}
		if string(m[1]) == "50" {
			s.p50 = d
		} else {
			s.p99 = d
		}
	}
	return s, requests, nil
}

// target is what kvd is to reach in comparison with another server.
type target struct {
	against string
	ratio   float64 // of the rates, at least; 0 for the record
}

// race loads the servers in turn and returns the medians of all rounds.
func (b *bench) race(ctx context.Context, work string, l load, servers []*server, targets ...target) (table, error) {
	samples := map[string][]sample{}
	t := table{Work: work, Commands: []string{strings.Join(l.command("URL", b.duration), " ")}}
	for round := range b.rounds {
		for _, s := range servers {
			got, err := l.run(ctx, s, b.duration)
			if err != nil {
				return t, err
			}
			samples[s.name] = append(samples[s.name], got)
			fmt.Fprintf(b.log, "  %s, round %d of %d, %-7s %9.0f/s %6.1f µs of CPU each\n", work, round+1, b.rounds, s.name, got.rate, micros(got.cpu))
		}
	}
	rates := map[string]float64{}
	for _, s := range servers {
		of := samples[s.name]
		rate := func(s sample) float64 { return s.rate }
		rates[s.name] = median(of, rate)
		slowest, fastest := slices.MinFunc(of, byRate), slices.MaxFunc(of, byRate)
		t.Rows = append(t.Rows, row{Subject: s.name, Figures: []figure{
			{"requests/s", rates[s.name], 0},
			{"slowest", slowest.rate, 0},
			{"fastest", fastest.rate, 0},
			{"MB/s", median(of, func(s sample) float64 { return s.bytesRate / 1e6 }), 1},
			{"p50 ms", median(of, func(s sample) float64 { return micros(s.p50) / 1000 }), 2},
			{"p99 ms", median(of, func(s sample) float64 { return micros(s.p99) / 1000 }), 2},
			{"server CPU µs", median(of, func(s sample) float64 { return micros(s.cpu) }), 1},
		}})
	}
	for _, want := range targets {
		t.Claims = append(t.Claims, claim{What: "kvd / " + want.against, Value: rates["kvd"] / rates[want.against], Target: want.ratio, AtLeast: true})
	}
	return t, nil
}

func byRate(a, b sample) int {
	switch {
	case a.rate < b.rate:
		return -1
	case a.rate > b.rate:
		return 1
	}
	return 0
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// median returns the middle of what of returns for the items.
func median[T any](items []T, of func(T) float64) float64 {
	values := make([]float64, len(items))
	for i, item := range items {
		values[i] = of(item)
	}
	slices.Sort(values)
	if len(values)%2 == 0 {
		return (values[len(values)/2-1] + values[len(values)/2]) / 2
	}
	return values[len(values)/2]
}

// fill writes keys 0 to count-1 with writers side by side.
func fill(ctx context.Context, s *server, count, writers int, keyOf func(i int) string, value string) error {
	form := url.Values{"value": {value}}.Encode()
	return fillForms(ctx, s, count, writers, keyOf, func() string { return form })
}

// fillForms is fill with a form that may change as time goes.
func fillForms(ctx context.Context, s *server, count, writers int, keyOf func(i int) string, formNow func() string) error {
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: writers, DisableCompression: true}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var once sync.Once
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var working sync.WaitGroup
	for range writers {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < count && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := put(ctx, &client, s.url+"/v2/keys"+keyOf(i), formNow()); err != nil {
					once.Do(func() { failed = fmt.Errorf("%s: %w", s.name, err) })
					cancel()
				}
			}
		})
	}
	working.Wait()
	return errors.Join(failed, context.Cause(ctx))
}

func put(ctx context.Context, client *http.Client, url, form string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, strings.NewReader(form))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("PUT %s: %s: %s", url, response.Status, body)
	}
	return err
}
