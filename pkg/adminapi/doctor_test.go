package adminapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/doctor"
)

func TestTheChecklistIsToldAndExaminedOnceForAWhile(t *testing.T) {
	examined := 0
	w := newWorld(t, func(c *adminapi.Config) {
		c.Doctor = func(context.Context) []doctor.Line {
			examined++
			return []doctor.Line{
				{ID: "one", Group: "A", Title: "One", Status: doctor.Pass, Detail: "seen"},
				{ID: "two", Group: "A", Title: "Two", Status: doctor.Fail, Detail: "seen", Remedy: "mend it"},
				{ID: "three", Group: "B", Title: "Three", Status: doctor.Unknown, Detail: "not seen", Remedy: "look"},
			}
		}
	})
	w.person("admin", "admin")
	w.person("viewer", "viewer")
	var list adminapi.Checklist
	for range 3 {
		got := w.do("admin", http.MethodGet, "/doctor", nil)
		if got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if err := json.Unmarshal([]byte(got.body), &list); err != nil {
			t.Fatal(err)
		}
	}
	if examined != 1 || list.Passed != 1 || list.Failed != 1 || list.CannotTell != 1 || len(list.Lines) != 3 || list.Lines[1].Remedy != "mend it" || list.Lines[2].Status != "cannot-tell" {
		t.Errorf("examined %d times: %+v", examined, list)
	}
	w.mu.Lock()
	w.now = time.Minute
	w.mu.Unlock()
	w.do("admin", http.MethodGet, "/doctor", nil)
	if examined != 2 {
		t.Errorf("a minute later it was examined %d times", examined)
	}
	if got := w.do("viewer", http.MethodGet, "/doctor", nil); got.status != http.StatusForbidden || examined != 2 {
		t.Errorf("a viewer: %d %s", got.status, got.body)
	}
}
