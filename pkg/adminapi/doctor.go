package adminapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"rackgateway/pkg/doctor"
)

// checklist remembers for a while what the examination came to: it asks around.
type checklist struct {
	mu   sync.Mutex // held while the examination runs, which is bounded; only those who ask for it wait
	last GetDoctor200JSONResponse
}

// examinedFor is how long an answer is given again.
const examinedFor = 30 * time.Second

// GetDoctor goes through the production checklist.
func (a operations) GetDoctor(ctx context.Context, _ GetDoctorRequestObject) (GetDoctorResponseObject, error) {
	if a.Doctor == nil {
		return nil, refuse(http.StatusNotFound, "no-checklist", "this admin has no checklist")
	}
	a.checklist.mu.Lock()
	defer a.checklist.mu.Unlock()
	if now := a.Now(); now.Sub(a.checklist.last.ExaminedAt) >= examinedFor {
		lines := a.Doctor(ctx)
		list := GetDoctor200JSONResponse{ExaminedAt: now.UTC(), Lines: make([]ChecklistLine, len(lines))}
		list.Passed, list.Failed, list.CannotTell = doctor.Count(lines)
		for i, line := range lines {
			list.Lines[i] = ChecklistLine{
				Id: line.ID, Group: line.Group, Title: line.Title, Status: ChecklistLineStatus(line.Status), Detail: line.Detail, Remedy: line.Remedy,
			}
		}
		if ctx.Err() != nil { // what was cut short is not for others
			return list, nil
		}
		a.checklist.last = list
	}
	return a.checklist.last, nil
}
