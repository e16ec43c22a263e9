//go:build browser

package console_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"rackgateway/pkg/racktest"
)

// tenThousand is how much of everything there is.
const tenThousand = 10_000

const (
	addManyPeople = `insert into rgw.users (email, name, created_by) select 'person' || n || '@example.com', 'Person ' || n, 'test' from generate_series(1, $1) n`
	addManyTokens = `
with made as (
  insert into rgw.tokens (kind, name, owner_id, expires_at, created_by)
  select 'api', 'pipeline ' || n, (select id from rgw.users where email = 'ana@example.com'), now() + interval '30 days', 'test' from generate_series(1, $1) n
  returning id, name
)
insert into rgw.token_secrets (token_id, hash, prefix, last_four)
select id, sha256(convert_to(id::text, 'UTF8')), 'rgw_api_' || left(replace(id::text, '-', ''), 6), 'abcd' from made`
)

func TestTheConsoleAtSize(t *testing.T) {
	if testing.Short() {
		return // it takes minutes
	}
	apps := []string{"huge"}
	for n := range tenThousand {
		apps = append(apps, fmt.Sprintf("app-%05d", n))
	}
	w := newWorldWith(t, racktest.Options{Name: "staging", Provider: "aws", Region: "eu-west-1", Version: "3.24.9", Apps: apps})
	w.Env.Admin("setting", "set", "mfa_required", "false")
	for _, statement := range []string{addManyPeople, addManyTokens} {
		if _, err := w.DB.ExecContext(t.Context(), statement, tenThousand); err != nil {
			t.Fatal(err)
		}
	}
	w.ask("admin", http.MethodPut, "/apps/huge/services/web", fmt.Sprintf("count=%d", tenThousand))
	var asking sync.WaitGroup
	for range 16 {
		asking.Go(func() {
			for range tenThousand / 16 {
				w.ask("admin", http.MethodGet, "/apps/huge", "")
			}
		})
	}
	asking.Wait()
	p := w.plan()
	p.Bulk = tenThousand
	w.drive("bulk.mjs", p)
}

// figures are what the last scenario tells, as rows of make bench.
func figures(note string) {
	path := os.Getenv("BENCH_RESULTS")
	var f struct {
		Paint       float64 `json:"first_paint_ms"`
		Title       float64 `json:"title_ms"`
		Interactive float64 `json:"interactive_ms"`
		Bytes       float64 `json:"bytes"`
		Answers     float64 `json:"answers"`
		Task        float64 `json:"audit_longest_task_ms"`
		Rows        float64 `json:"audit_rows"`
	}
	if path == "" || json.Unmarshal([]byte(note), &f) != nil {
		return
	}
	const five = "median of five visits with an empty cache"
	rows := []row{
		{"console: first load gzipped, with headers", math.Round(f.Bytes / 1024), "KB", "≤ 200", "", f.Bytes <= 200*1024, five},
		{"console: what the API answers meanwhile", math.Round(f.Answers / 1024), "KB", "", "", true, five},
		{"console: first contentful paint, CPU throttled 4×", f.Paint, "ms", "", "", true, five},
		{"console: title shown, CPU throttled 4×", f.Title, "ms", "", "", true, five},
		{"console: interactive, CPU throttled 4×", f.Interactive, "ms", "≤ 1500", "", f.Interactive <= 1500, five},
		{"console: longest task scrolling 10,000 events, CPU throttled 4×", f.Task, "ms", "≤ 200", "", f.Task <= 200, "of one way through the whole list"},
		{"console: rows in the page at most", f.Rows, "", "≤ 101", "", f.Rows <= 101, "the header is one of them"},
	}
	for _, r := range rows {
		fmt.Printf("%-66s %8.0f %-3s must %-8s %v\n", r.Name, r.Value, r.Unit, r.Must, r.OK)
	}
	if err := join(path, rows); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// row is one of make bench's results, as deploy/bench writes them.
type row struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Must   string  `json:"must"`
	Aim    string  `json:"aim"`
	OK     bool    `json:"ok"`
	Spread string  `json:"spread"`
}

// join puts rows among the results that are there, in place of those of an earlier run.
func join(path string, rows []row) error {
	var results []json.RawMessage
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &results)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the results in %s: %w", path, err)
	}
	results = slices.DeleteFunc(results, func(r json.RawMessage) bool {
		var old struct {
			Name string `json:"name"`
		}
		return json.Unmarshal(r, &old) == nil && strings.HasPrefix(old.Name, "console: ")
	})
	for _, r := range rows {
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		results = append(results, text)
	}
	if text, err = json.MarshalIndent(results, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}
