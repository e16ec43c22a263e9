//go:build browser

package console_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
	"rackgateway/pkg/testenv/idp"
)

// TestTheStepUpPageInABrowser is the page on which people answer what command lines ask for. The commands are those of the
// stock CLI where CONVOX names one, and requests as it makes them. With SCREENSHOTS the page is photographed on the way.
func TestTheStepUpPageInABrowser(t *testing.T) {
	env := suite.Start(t, testenv.Options{TLS: true, Admins: 1, Factors: true, Rack: racktest.Options{Name: "staging", Seed: 7, PromoteTime: -1}})
	env.AddUser("nina", "deployer") // who has no factor yet
	env.Provider.AddPerson(idp.Person{Subject: "nina", Email: "nina@example.com", Name: "Nina Novak"})
	env.AddToken("server", "--user", "ana@example.com", "--name", "build server", "--headless")
	w := &world{Env: env, t: t, Admin: env.Admins[0].URL, IDP: env.Provider.URL}

	// What the browser's program cannot do by itself.
	control := http.NewServeMux()
	control.HandleFunc("GET /code/{who}", func(out http.ResponseWriter, r *http.Request) {
		steps, err := strconv.Atoi(r.URL.Query().Get("steps"))
		if err != nil {
			http.Error(out, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = out.Write([]byte(env.TOTP(r.PathValue("who"), steps)))
	})
	control.HandleFunc("POST /expire/{id}", func(out http.ResponseWriter, r *http.Request) {
		if _, err := env.DB.ExecContext(r.Context(), `update rgw.step_ups set expires_at = now() where id = $1`, r.PathValue("id")); err != nil {
			http.Error(out, err.Error(), http.StatusInternalServerError)
		}
	})
	control.HandleFunc("POST /move/{id}", func(out http.ResponseWriter, r *http.Request) {
		if _, err := env.DB.ExecContext(r.Context(), `update rgw.step_ups set address = '203.0.113.9' where id = $1`, r.PathValue("id")); err != nil {
			http.Error(out, err.Error(), http.StatusInternalServerError)
		}
	})
	server := httptest.NewServer(control)
	defer server.Close()

	p := w.plan()
	p.Control, p.Convox, p.Out = server.URL, os.Getenv("CONVOX"), os.Getenv("SCREENSHOTS")
	p.Tokens["nina"], p.Tokens["server"] = env.Token("nina"), env.Token("server")
	w.drive("page.mjs", p)
}
