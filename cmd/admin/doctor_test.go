package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"rackgateway/pkg/doctor"
	"rackgateway/pkg/postgres/postgrestest"
)

// The list of a trial on one machine: what it says is for package doctor's tests; here it is about the command.
func TestDoctorPrintsTheChecklist(t *testing.T) {
	db := postgrestest.New(t)
	environ := serveEnviron(db, "RACK_TOKN=oops")
	examine := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"doctor"}, args...), environ, strings.NewReader(""), &out, &errs)
		return code, out.String(), errs.String()
	}
	code, text, errs := examine()
	if code != exitFailed || !strings.Contains(errs, "not everything is as it should be") {
		t.Errorf("%d %s", code, errs)
	}
	for _, part := range []string{
		"Configuration\n", "  FAIL         The configuration has no mistakes", "RACK_TOKN", "  pass         PostgreSQL is a version", "  cannot tell  ",
		"What to do: ", " pass, ", " cannot be told from here.\n",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("it does not say %q:\n%s", part, text)
		}
	}
	for _, secret := range []string{testMACKey, "5e884898da28047151d0e56f8dc62927", string(db.AdminURL())} {
		if strings.Contains(text, secret) {
			t.Errorf("it tells a secret:\n%s", text)
		}
	}

	code, text, _ = examine("--json")
	var view doctorView
	if err := json.Unmarshal([]byte(text), &view); err != nil || code != exitFailed {
		t.Fatalf("%d %v\n%s", code, err, text)
	}
	if view.Failed == 0 || view.Passed == 0 || view.Passed+view.Failed+view.CannotTell != len(view.Lines) || view.ExaminedAt.IsZero() {
		t.Errorf("%+v", view)
	}
	for _, line := range view.Lines {
		if line.Status != doctor.Pass && line.Remedy == "" {
			t.Errorf("%s: %s and nothing to do about it", line.ID, line.Status)
		}
	}
}

func TestDoctorNeedsADatabase(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"doctor"}, []string{"DOMAIN=localhost"}, strings.NewReader(""), &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "DATABASE_URL is not set") {
		t.Errorf("%d %s", code, &errs)
	}
	if code := run(t.Context(), []string{"doctor"}, []string{"DOMAIN=localhost", "DATABASE_URL=postgres://x:y@127.0.0.1:1/z?sslmode=disable"}, strings.NewReader(""), &out, &errs); code != exitUnreachable {
		t.Errorf("%d %s", code, &errs)
	}
}
