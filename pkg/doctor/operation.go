package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"rackgateway/pkg/daemon"
)

func operationChecks() []check {
	return []check{
		{
			id: "metrics", group: "Operation", title: "Metrics are collected from both processes",
			remedy:  "set METRICS_ADDR of both, have Prometheus ask there, and load the alert rules of deploy/monitoring",
			examine: examineMetrics,
		},
		{
			id: "clocks", group: "Operation", title: "The clocks of admin, proxy, database and identity provider agree",
			remedy:  "have every machine keep time by NTP",
			examine: examineClocks,
		},
	}
}

// lastScrape is how long ago metrics may last have been asked for.
const lastScrape = 5 * time.Minute

func examineMetrics(ctx context.Context, d *Doctor, seen *sight) finding {
	var wrong, unseen []string
	judge := func(who string, served bool, last time.Time) {
		switch {
		case !served:
			wrong = append(wrong, who+" serves none")
		case last.IsZero():
			wrong = append(wrong, "nobody has ever asked "+who+" for its own")
		case d.Now().Sub(last) > lastScrape:
			wrong = append(wrong, fmt.Sprintf("%s was last asked at %s", who, last.UTC().Format(time.RFC3339)))
		}
	}
	if served, last, err := d.scraped(ctx); err != nil {
		unseen = append(unseen, "admin does not tell: "+err.Error())
	} else {
		judge("admin", served, last)
	}
	if told, _, err := seen.deployment(); err != nil {
		unseen = append(unseen, "the proxy does not tell: "+err.Error())
	} else {
		last := time.Time{}
		if told.Metrics.ScrapedAt != nil {
			last = *told.Metrics.ScrapedAt
		}
		judge("the proxy", told.Metrics.Served, last)
	}
	switch {
	case len(wrong) > 0:
		return fail("%s", strings.Join(append(wrong, unseen...), "; "))
	case len(unseen) > 0:
		return unknown("%s", strings.Join(unseen, "; "))
	}
	return pass("both were asked within the last five minutes")
}

// scraped is when this gateway's admin was last asked for its metrics.
func (d *Doctor) scraped(ctx context.Context) (served bool, last time.Time, err error) {
	if d.ScrapedAt != nil {
		served, last = d.ScrapedAt()
		return served, last, nil
	}
	address := d.Config.Server.MetricsAddr
	if address == "" {
		return false, time.Time{}, nil
	}
	if host, port, err := net.SplitHostPort(address); err == nil && host == "" {
		address = net.JoinHostPort("localhost", port)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+daemon.ScrapedPath, nil)
	if err != nil {
		return false, time.Time{}, fmt.Errorf("reading METRICS_ADDR: %w", err)
	}
	resp, err := client(nil).Do(req)
	if err != nil {
		return false, time.Time{}, fmt.Errorf("asking at METRICS_ADDR: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	var at *time.Time
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<10)).Decode(&at); err != nil {
		return false, time.Time{}, fmt.Errorf("reading when metrics were asked for: %w", err)
	}
	if at != nil {
		last = *at
	}
	return true, last, nil
}

// furthest is how far apart two clocks may be, with the way between them. Sign-in and one-time codes allow for less than
// a minute.
const furthest = 5 * time.Second

const selectClock = `select clock_timestamp()`

func examineClocks(ctx context.Context, d *Doctor, seen *sight) finding {
	var wrong, agreeing []string
	compare := func(who string, ahead time.Duration) {
		if ahead.Abs() > furthest {
			wrong = append(wrong, fmt.Sprintf("%s is %s off", who, ahead.Abs().Round(time.Second)))
		} else {
			agreeing = append(agreeing, who)
		}
	}
	var database time.Time
	if err := d.DB.GetContext(ctx, &database, selectClock); err == nil {
		compare("the database", d.Now().Sub(database))
	}
	if _, ahead, err := seen.deployment(); err == nil {
		compare("the proxy", ahead)
	}
	if said, err := seen.issuer(); err == nil && said.ahead != nil {
		compare("the identity provider", *said.ahead)
	}
	switch {
	case len(wrong) > 0:
		return fail("%s", strings.Join(wrong, "; "))
	case len(agreeing) == 0:
		return unknown("nobody told the time")
	}
	return pass("as far as they can be told within %s: %s", furthest, strings.Join(agreeing, ", "))
}
