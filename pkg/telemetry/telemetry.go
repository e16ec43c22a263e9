// Package telemetry sends what a process does to where its operators look, when they say so: traces of requests to an
// OpenTelemetry collector (OTLP over HTTP, as JSON: opentelemetry-proto 1.x), and errors of the log to Sentry (its
// envelope endpoint).
//
// Both are told what happened and how long it took, and nothing that a client sent: a trace holds the method, the status
// and the first part of the path. Nothing waits for either: what cannot be sent is dropped, and counted.
package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// Sending.
const (
	queueLength  = 2048             // of what waits to be sent; more is dropped
	batchLength  = 512              // spans in one request
	batchEvery   = 5 * time.Second  // at most between two requests
	sendPatience = 10 * time.Second // for one request
	lastPatience = 3 * time.Second  // for the last, when the process ends
)

// dropped counts what could not be sent.
type dropped struct{ n atomic.Int64 }

// post sends a body and wants an answer of 200 to 299.
func post(ctx context.Context, client *http.Client, url string, header http.Header, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	req.Header = header.Clone()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode > 299 {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}

// gather hands batches of what comes over the channel to send, until ctx ends; then what is left, for a moment more.
func gather[T any](ctx context.Context, queue <-chan T, most int, send func(context.Context, []T) error, lost *dropped, log *slog.Logger) {
	every := time.NewTicker(batchEvery)
	defer every.Stop()
	var batch []T
	failing := false
	flush := func(ctx context.Context) {
		if len(batch) == 0 {
			return
		}
		// The end of the process cuts off nothing that is on its way; it waits, as long as it has patience.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPatience)
		err := send(ctx, batch)
		cancel()
		if err != nil {
			lost.n.Add(int64(len(batch)))
			if !failing { // once, and not for each
				log.Warn("telemetry cannot be sent; it is dropped until it can", "error", err)
			}
		}
		failing = err != nil
		batch = batch[:0]
	}
	for {
		select {
		case one := <-queue:
			if batch = append(batch, one); len(batch) >= most {
				flush(ctx)
			}
		case <-every.C:
			flush(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPatience)
			defer cancel()
			for {
				select {
				case one := <-queue:
					batch = append(batch, one)
					continue
				default:
				}
				flush(last)
				return
			}
		}
	}
}
