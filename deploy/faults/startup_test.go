package faults

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

// Everything starts at once over an empty database, as an orchestrator has it: two admins that migrate as they start, two
// commands that migrate, and two proxies, which are started again when they give up. In the end there is one schema, one
// key of the ledger, and each of the first people once.
func TestEverythingMayStartAtOnce(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: -1})
	const name = "fresh"
	must(t, env.Postgres.CreateDatabase(t.Context(), name, ""))
	t.Cleanup(func() { must(t, env.Postgres.DropDatabase(context.WithoutCancel(t.Context()), name)) })
	owner := env.Postgres.URL(cluster.Owner, name)

	var starting sync.WaitGroup
	outputs := make([]string, 2)
	for i := range outputs {
		starting.Go(func() {
			migrate := exec.CommandContext(t.Context(), filepath.Join(env.Bin(), "admin"), "migrate")
			migrate.Env = []string{"ADMIN_DATABASE_URL=" + owner, "DOMAIN=localhost"}
			if output, err := migrate.CombinedOutput(); err != nil {
				outputs[i] = fmt.Sprintf("%v\n%s", err, output)
			}
		})
	}
	var admins []*testenv.AdminServer
	for range 2 {
		admins = append(admins, env.AddAdminWith(map[string]string{
			"DATABASE_URL": env.Postgres.URL(cluster.Admin, name), "ADMIN_DATABASE_URL": owner,
			"ADMIN_USERS": "ana@example.com,ben@example.com", "VIEWER_USERS": "vic@example.com",
		}))
	}
	var proxies []*testenv.Proxy
	for range 2 {
		proxies = append(proxies, env.AddProxyWith(map[string]string{"DATABASE_URL": env.Postgres.URL(cluster.Proxy, name)}))
	}
	gaveUp := 0
	for _, proxy := range proxies {
		eventually(t, proxy.Name+" was ready", func() bool {
			if proxy.PID() == 0 {
				gaveUp++
				proxy.Start()
			}
			resp, err := env.Client().Get(proxy.URL + "/api/v1/health/ready")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	for _, admin := range admins {
		admin.WaitReady(t.Context())
	}
	starting.Wait()
	for _, output := range outputs {
		if output != "" {
			t.Error(output)
		}
	}
	t.Logf("proxies gave up %d times for want of a schema", gaveUp)

	db := openAs(t, env, cluster.Owner, name)
	for query, want := range map[string]int{
		`select count(*) from rgw.users`:                                                                           3,
		`select count(*) from rgw.bindings where role = 'admin'`:                                                   2,
		`select count(*) from rgw.audit_events where action = 'user.add' and phase = 'finished'`:                   3,
		`select count(*) from (select version_id from rgw.schema_migrations group by 1 having count(*) > 1) twice`: 0,
	} {
		var got int
		must(t, db.GetContext(t.Context(), &got, query))
		if got != want {
			t.Errorf("%s is %d, want %d", query, got, want)
		}
	}
	eventually(t, "the ledger had begun, with one key", func() bool {
		var keys, checkpoints int
		must(t, db.GetContext(t.Context(), &keys, `select count(*) from rgw.ledger_keys`))
		must(t, db.GetContext(t.Context(), &checkpoints, `select count(*) from rgw.ledger_checkpoints`))
		if keys > 1 {
			t.Fatalf("the ledger has %d keys", keys)
		}
		return keys == 1 && checkpoints > 0
	})
	for _, server := range []*testenv.Server{&proxies[0].Server, &proxies[1].Server, &admins[0].Server, &admins[1].Server} {
		if code := server.Stop(); code != 0 {
			t.Errorf("%s stopped with code %d", server.Name, code)
		}
		if strings.Contains(server.Log(), "it is recorded with less") {
			t.Errorf("%s has recorded an event with less than it said:\n%s", server.Name, server.Log())
		}
	}
}
