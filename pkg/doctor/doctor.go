// Package doctor examines a running gateway against the production checklist: each line passes, fails, or cannot be
// told from here, with what was seen and what to do. `admin doctor` prints it, and the API and the console show the
// same list.
//
// It changes nothing but a canary object of its own in the anchors' bucket, asks only what is allowed to be asked (as
// admin's own database role, without the rack's password, which it does not have), and guesses nothing: what it
// cannot see it says it cannot see. What only a proxy can see, a proxy tells (deployment.Proxy).
package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/config"
	"rackgateway/pkg/deployment"
)

// Status is what a line came to.
type Status string

// What a line may come to.
const (
	Pass    Status = "pass"
	Fail    Status = "fail"
	Unknown Status = "cannot-tell"
)

// Line is one line of the checklist.
type Line struct {
	ID     string `json:"id"`     // stable, such as "database-tls"
	Group  string `json:"group"`  // what it is about, such as "Database"
	Title  string `json:"title"`  // what should be so
	Status Status `json:"status"` // whether it is
	Detail string `json:"detail"` // what was seen, or why it could not be
	Remedy string `json:"remedy"` // what to do; empty when it passes
}

// Doctor examines one gateway. Fields without a remark must be given; its methods may be called from any goroutine.
type Doctor struct {
	Config *config.Admin
	// Slips are what is wrong with the configuration, or looks so, in sentences; nil when nothing is.
	Slips []string
	DB    *sqlx.DB // as admin's role
	// Setting is the JSON value in force of a setting; nil when settings are not at hand.
	Setting func(ctx context.Context, key string) (json.RawMessage, error)
	// ToProxy carries requests to PROXY_URL, and Public to the gateway's public addresses and the issuer; nil for the
	// default transport.
	ToProxy, Public http.RoundTripper
	// ScrapedAt says whether this process serves metrics and when they were last asked for; nil to ask at METRICS_ADDR.
	ScrapedAt func() (served bool, last time.Time)
	// Elsewhere says that this runs where no process of the gateway does, so that nothing here may reach the rack.
	Elsewhere bool
	// S3 is the client of the anchors' bucket; nil for the one that the environment makes, as for every AWS tool.
	S3  *s3.Client
	Now func() time.Time

	canaries canaries
}

// check is one line, and how it is examined.
type check struct {
	id, group, title string
	remedy           string // what to do when it does not pass, unless the finding says it better
	examine          func(context.Context, *Doctor, *sight) finding
}

// finding is what examining came to.
type finding struct {
	status Status
	detail string
	remedy string // in place of the check's
}

func pass(format string, args ...any) finding {
	return finding{status: Pass, detail: fmt.Sprintf(format, args...)}
}

func fail(format string, args ...any) finding {
	return finding{status: Fail, detail: fmt.Sprintf(format, args...)}
}

func unknown(format string, args ...any) finding {
	return finding{status: Unknown, detail: fmt.Sprintf(format, args...)}
}

// to gives the finding its own remedy.
func (f finding) to(remedy string) finding {
	f.remedy = remedy
	return f
}

// checklist is the whole list, in the order in which it is read. Each group is in a file of its own.
func checklist() []check {
	var list []check
	for _, group := range [][]check{configurationChecks(), addressChecks(), signInChecks(), peopleChecks(), databaseChecks(), rackChecks(), recordChecks(), bucketChecks(), operationChecks()} {
		list = append(list, group...)
	}
	return list
}

// patience is how long one line may take.
const patience = 15 * time.Second

// Examine goes through the whole list, several lines at once.
func (d *Doctor) Examine(ctx context.Context) []Line {
	seen := newSight(d)
	checks := checklist()
	lines := make([]Line, len(checks))
	var examining sync.WaitGroup
	for i, c := range checks {
		examining.Go(func() {
			limited, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			f := c.examine(limited, d, seen)
			line := Line{ID: c.id, Group: c.group, Title: c.title, Status: f.status, Detail: f.detail}
			if f.status != Pass {
				line.Remedy = c.remedy
				if f.remedy != "" {
					line.Remedy = f.remedy
				}
			}
			lines[i] = line
		})
	}
	examining.Wait()
	return lines
}

// Count says how many lines came to what.
func Count(lines []Line) (passed, failed, unknown int) {
	for _, line := range lines {
		switch line.Status {
		case Pass:
			passed++
		case Fail:
			failed++
		case Unknown:
			unknown++
		}
	}
	return passed, failed, unknown
}

// sight is what several lines look at, looked at once.
type sight struct {
	deployment func() (*deployment.Proxy, time.Duration, error) // what a proxy tells, and how far ahead of its clock ours was
	answer     func() publicAnswer                              // of the console's public address
	issuer     func() (*discovery, error)
}

func newSight(d *Doctor) *sight {
	ctx := context.Background() // each bounds itself: lines that wait for one share it
	type told struct {
		proxy *deployment.Proxy
		ahead time.Duration
	}
	ask := sync.OnceValues(func() (told, error) {
		proxy, err := d.askProxy(ctx)
		if err != nil {
			return told{}, err
		}
		return told{proxy, d.Now().Sub(proxy.Time)}, nil
	})
	return &sight{
		deployment: func() (*deployment.Proxy, time.Duration, error) { t, err := ask(); return t.proxy, t.ahead, err },
		answer:     sync.OnceValue(func() publicAnswer { return d.ask(ctx, d.Config.Server.AdminURL, "/api/v1/health") }),
		issuer:     sync.OnceValues(func() (*discovery, error) { return d.discover(ctx) }),
	}
}

// client asks without following where it is sent.
func client(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: transport, Timeout: patience - time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
