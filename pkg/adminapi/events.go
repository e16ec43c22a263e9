package adminapi

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"strconv"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
)

func eventOf(e *audit.Event) Event {
	out := Event{
		Id: e.ID, RequestId: e.RequestID, OccurredAt: e.OccurredAt, Kind: string(e.Kind), Phase: string(e.Phase), Decision: string(e.Decision),
		ActorKind: string(e.ActorKind), ActorId: some(e.ActorID), ActorLabel: e.ActorLabel, Action: e.Action, App: e.App, Resource: e.Resource,
		Status: int(e.Status), Detail: e.DetailJSON(),
	}
	if e.Address.IsValid() {
		out.Address = some(e.Address.String())
	}
	return out
}

// places adds to events their places in the ledger.
func (a *API) places(ctx context.Context, events []*audit.Event, out []Event) error {
	places, err := ledger.Places(ctx, a.DB, events)
	if err != nil {
		return err
	}
	for i, e := range events {
		if index, ok := places[e.ID]; ok {
			out[i].LeafIndex = &index
		}
	}
	return nil
}

// events reads a page of the record.
func (a *API) events(ctx context.Context, filter audit.Filter) (EventPage, error) {
	events, cursor, err := audit.List(ctx, a.DB, filter)
	if err != nil {
		return EventPage{}, err
	}
	out := EventPage{Items: make([]Event, len(events)), Next: next(string(cursor))}
	for i, e := range events {
		out.Items[i] = eventOf(e)
	}
	return out, a.places(ctx, events, out.Items)
}

// ListEvents lists the record. That it was read, and what was looked for, is in the record before anything is shown.
func (a operations) ListEvents(ctx context.Context, in ListEventsRequestObject) (ListEventsResponseObject, error) {
	p := in.Params
	if p.Q != nil {
		return a.searchEvents(ctx, p)
	}
	filter := audit.Filter{
		Actor: text(p.Actor), App: text(p.App), Decision: audit.Decision(text(p.Decision)),
		Phase: audit.Phase(text(p.Phase)), Kind: audit.Kind(text(p.Kind)), ByHand: p.Kind == nil,
		Limit: limitOf(p.Limit), Before: audit.Cursor(text(p.Cursor)),
	}
	params := []string{"actor", filter.Actor, "app", filter.App, "decision", string(filter.Decision), "phase", string(filter.Phase), "kind", string(filter.Kind)}
	if filter.Kind == "all" {
		filter.Kind = ""
	}
	if p.Action != nil {
		filter.Actions = []string{*p.Action}
		params = append(params, "action", *p.Action)
	}
	if p.Since != nil {
		filter.Since = *p.Since
		params = append(params, "since", p.Since.UTC().Format(time.RFC3339))
	}
	if p.Until != nil {
		filter.Until = *p.Until
		params = append(params, "until", p.Until.UTC().Format(time.RFC3339))
	}
	if p.RequestId != nil {
		filter.RequestID = *p.RequestId
		params = append(params, "request", p.RequestId.String())
	}
	if filter.Limit > 0 {
		params = append(params, "limit", strconv.Itoa(filter.Limit))
	}
	if err := exchangeIn(ctx).record(ctx, "", params...); err != nil {
		return nil, err
	}
	page, err := a.events(ctx, filter)
	if err != nil {
		return nil, err
	}
	return ListEvents200JSONResponse(page), nil
}

// GetEvent answers with one event. That it was looked at is in the record first.
func (a operations) GetEvent(ctx context.Context, in GetEventRequestObject) (GetEventResponseObject, error) {
	if err := exchangeIn(ctx).record(ctx, in.EventId.String()); err != nil {
		return nil, err
	}
	event, err := audit.Find(ctx, a.DB, in.EventId)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, &problem{Status: http.StatusNotFound, Code: "no-such-event",
			Detail: "there is no event " + in.EventId.String() + ": list the events to see which there are"}
	case err != nil:
		return nil, err
	}
	out := []Event{eventOf(event)}
	if err := a.places(ctx, []*audit.Event{event}, out); err != nil {
		return nil, err
	}
	return GetEvent200JSONResponse(out[0]), nil
}
