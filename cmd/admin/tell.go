package main

import (
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/seal"
)

// listenPatience is how long announcements may go unproven before that counts as trouble.
const listenPatience = 15 * time.Second

// newNotices wires what tells people.
func newNotices(cfg *config.Admin, db *sqlx.DB, key audit.Key, keys seal.Keys, book *book, feed *postgres.Feed, address func(*http.Request) netip.Addr, log *slog.Logger, now func() time.Time) *notify.Service {
	return notify.New(noticesConfig(cfg, db, key, keys, log, now, func(c *notify.Config) {
		c.Follower, c.ClientAddress = book.follower, address
		c.Healthy = func() string {
			if feed.ProofAge() > listenPatience {
				return "admin did not hear its database"
			}
			return ""
		}
	}))
}

// noticesConfig is what notices work with, for the service and for commands alike.
func noticesConfig(cfg *config.Admin, db *sqlx.DB, key audit.Key, keys seal.Keys, log *slog.Logger, now func() time.Time, change func(*notify.Config)) notify.Config {
	n := &cfg.Notices
	console := cfg.Server.AdminURL
	if console == nil { // a command, which needs less than the service does
		console = &url.URL{}
	}
	base, postmark := address(n.SlackBase), address(n.PostmarkBase)
	c := notify.Config{
		DB: db, Key: key, Keys: keys, Console: console, Gateway: cfg.Rack.Organization + "/" + cfg.Rack.Alias, Log: log, Now: now, LogMail: cfg.Server.DevMode,
		Postmark: notify.PostmarkConfig{
			Token: n.PostmarkToken, From: n.PostmarkFrom, Stream: n.PostmarkStream, BaseURL: postmark, Domain: cfg.Server.Hostname(), Console: console,
			Gateway: cfg.Rack.Organization + "/" + cfg.Rack.Alias,
		},
		Slack: notify.SlackConfig{
			ClientID: n.SlackID, ClientSecret: n.SlackSecret, SigningSecret: n.SlackSigning, BaseURL: base,
			AuthorizeURL: &url.URL{Scheme: base.Scheme, Host: base.Host, Path: "/oauth/v2/authorize"},
		},
	}
	change(&c)
	return c
}

// address is one that the configuration was checked to have.
func address(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		return &url.URL{}
	}
	return u
}
