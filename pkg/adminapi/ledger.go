package adminapi

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	openapi_types "github.com/oapi-codegen/runtime/types"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
)

func errNoCheckpoint() error {
	return &problem{Status: http.StatusNotFound, Code: "no-checkpoint", Detail: "nothing has been signed yet: it is within a second of admin's first start"}
}

// ProveEvent proves that an event is in the ledger.
func (a operations) ProveEvent(ctx context.Context, in ProveEventRequestObject) (ProveEventResponseObject, error) {
	if err := exchangeIn(ctx).record(ctx, in.EventId.String()); err != nil {
		return nil, err
	}
	index, err := ledger.Find(ctx, a.DB, in.EventId)
	if errors.Is(err, ledger.ErrNoLeaf) {
		return nil, &problem{Status: http.StatusNotFound, Code: "no-such-event", Detail: "there is no such event in the ledger: check the id; a new event gets its place within a second"}
	}
	if err != nil {
		return nil, err
	}
	keys, err := ledger.PublicKeys(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	proof, err := ledger.Prove(ctx, a.DB, keys, index)
	if errors.Is(err, ledger.ErrNoLeaf) {
		return nil, errNoCheckpoint()
	}
	if err != nil {
		return nil, (&problem{Status: http.StatusConflict, Code: "not-provable", Detail: "the event cannot be proved: " + err.Error()}).because(err)
	}
	_, signed, err := ledger.Head(ctx, a.DB, keys)
	if err != nil {
		return nil, err
	}
	out := Proof{Format: proof.Format, LeafIndex: proof.Index, Event: proof.Event, Path: proof.Path, Checkpoint: proof.Checkpoint, SignedAt: &signed}
	if a.Ledger.Chain != "" {
		at, err := ledger.AnchoredAt(ctx, a.DB, a.Ledger.Chain, index)
		if err != nil {
			return nil, err
		}
		if !at.IsZero() {
			out.AnchoredAt = &at
		}
	}
	return ProveEvent200JSONResponse(out), nil
}

// GetLedger tells how the ledger does.
func (a operations) GetLedger(ctx context.Context, _ GetLedgerRequestObject) (GetLedgerResponseObject, error) {
	keys, err := ledger.PublicKeys(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	state := a.Ledger.State()
	out := Ledger{PublicKeys: keys, Trouble: some(state.Trouble), Verifications: []Verification{}}
	if state.Lag > time.Minute {
		out.WaitingSeconds = int(state.Lag.Seconds())
	}
	if len(keys) > 0 {
		out.Origin, _, _ = strings.Cut(keys[len(keys)-1], "+")
		c, signed, err := ledger.Head(ctx, a.DB, keys)
		switch {
		case err != nil && out.Trouble == nil:
			out.Trouble = some(err.Error())
		case c != nil:
			root := base64.StdEncoding.EncodeToString(c.Hash[:])
			out.Size, out.Root, out.Checkpoint, out.SignedAt = c.N, &root, &c.Note, &signed
		}
	} else {
		out.PublicKeys = []string{}
	}
	last, err := ledger.LastVerifications(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	for _, v := range last {
		out.Verifications = append(out.Verifications, verificationOf(v))
	}
	if a.Ledger.RetentionDays > 0 {
		out.RetentionDays = &a.Ledger.RetentionDays
	}
	months, err := ledger.DroppedMonths(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	if len(months) > 0 {
		out.DroppedMonths = &months
	}
	if out.Anchor, err = a.anchor(ctx); err != nil {
		return nil, err
	}
	out.Push, err = a.push(ctx, out.Size)
	return GetLedger200JSONResponse(out), err
}

// anchor tells how far the ledger has been copied to its bucket; nil when it is not.
func (a *API) anchor(ctx context.Context) (*Anchor, error) {
	if a.Ledger.Chain == "" {
		return nil, nil
	}
	out := &Anchor{Chain: a.Ledger.Chain}
	whole, err := ledger.LastAnchor(ctx, a.DB, a.Ledger.Chain, true)
	if err != nil {
		return nil, err
	}
	if whole != nil {
		out.Size, out.AnchoredAt = whole.Size, &whole.At
	}
	newest, err := ledger.LastAnchor(ctx, a.DB, a.Ledger.Chain, false)
	if err != nil {
		return nil, err
	}
	if newest != nil {
		out.CheckpointSize, out.CheckpointAt = newest.Size, &newest.At
	}
	cursor, err := ledger.CursorOf(ctx, a.DB, ledger.AnchorCursor)
	if err != nil {
		return nil, err
	}
	if cursor != nil {
		out.Trouble = some(cursor.Trouble)
	}
	return out, nil
}

// push tells how far events were pushed; nil when they are not.
func (a *API) push(ctx context.Context, size int64) (*Push, error) {
	if a.Ledger.PushURL == "" {
		return nil, nil
	}
	cursor, err := ledger.CursorOf(ctx, a.DB, ledger.PushCursor)
	if err != nil {
		return nil, err
	}
	if cursor == nil {
		cursor = &ledger.Cursor{MovedAt: a.Now()}
	}
	return &Push{Url: a.Ledger.PushURL, Next: cursor.Next, Behind: max(size-cursor.Next, 0), MovedAt: cursor.MovedAt, Trouble: some(cursor.Trouble)}, nil
}

// GetCheckpoint returns the newest checkpoint.
func (a operations) GetCheckpoint(ctx context.Context, _ GetCheckpointRequestObject) (GetCheckpointResponseObject, error) {
	c, err := a.head(ctx)
	if err != nil {
		return nil, err
	}
	return GetCheckpoint200TextResponse(c.Note), nil
}

// head is the newest checkpoint.
func (a *API) head(ctx context.Context) (*ledger.Checkpoint, error) {
	keys, err := ledger.PublicKeys(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	c, _, err := ledger.Head(ctx, a.DB, keys)
	if err == nil && c == nil {
		err = errNoCheckpoint()
	}
	return c, err
}

// GetConsistency proves that the newest checkpoint extends an earlier one.
func (a operations) GetConsistency(ctx context.Context, in GetConsistencyRequestObject) (GetConsistencyResponseObject, error) {
	from := int64(1)
	if in.Params.From != nil {
		from = *in.Params.From
	}
	size, err := ledger.Size(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	if from > size {
		return nil, badParameter("from", "is larger than the ledger")
	}
	c, err := a.head(ctx)
	if err != nil {
		return nil, err
	}
	path, err := ledger.Consistency(ctx, a.DB, c.Tree, from)
	if err != nil {
		return nil, err
	}
	return GetConsistency200JSONResponse{
		From: from, Size: c.N, Root: base64.StdEncoding.EncodeToString(c.Hash[:]), Path: path, Checkpoint: c.Note,
	}, nil
}

// CheckProof checks a proof.
func (a operations) CheckProof(ctx context.Context, in CheckProofRequestObject) (CheckProofResponseObject, error) {
	var keys ledger.Keyring
	if in.Body.PublicKeys != nil {
		keys = *in.Body.PublicKeys
	}
	if len(keys) == 0 {
		var err error
		if keys, err = ledger.PublicKeys(ctx, a.DB); err != nil {
			return nil, err
		}
	}
	if err := keys.Check(); err != nil {
		p := malformed("bad-body", "%s", err)
		p.Field = "public_keys"
		return nil, p
	}
	unsound := func(err error) (CheckProofResponseObject, error) {
		return CheckProof200JSONResponse{Sound: false, Reason: some(err.Error())}, nil
	}
	proof, err := ledger.ParseProof([]byte(in.Body.Proof))
	if err != nil {
		return unsound(err)
	}
	c, err := proof.Check(keys)
	if err != nil {
		return unsound(err)
	}
	return CheckProof200JSONResponse{Sound: true, LeafIndex: &proof.Index, Size: &c.N, Origin: &c.Origin}, nil
}

func verificationOf(v ledger.Verification) Verification {
	return Verification{VerifiedAt: v.At, What: VerificationWhat(v.What), Size: v.Size, Sound: v.Sound, Report: v.Report}
}

// ListVerifications lists what the gateway found when it verified itself.
func (a operations) ListVerifications(ctx context.Context, _ ListVerificationsRequestObject) (ListVerificationsResponseObject, error) {
	list, err := ledger.Verifications(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	out := ListVerifications200JSONResponse{Items: make([]Verification, len(list))}
	for i, v := range list {
		out.Items[i] = verificationOf(v)
	}
	return out, nil
}

// StartVerification has the gateway verify itself now.
func (a operations) StartVerification(ctx context.Context, _ StartVerificationRequestObject) (StartVerificationResponseObject, error) {
	if err := exchangeIn(ctx).record(ctx, ""); err != nil {
		return nil, err
	}
	a.Ledger.StartVerification()
	return StartVerification202Response{}, nil
}

// StartAnchor has the ledger copied to its bucket now.
func (a operations) StartAnchor(ctx context.Context, _ StartAnchorRequestObject) (StartAnchorResponseObject, error) {
	if a.Ledger.StartAnchor == nil {
		return nil, &problem{Status: http.StatusConflict, Code: "no-bucket", Detail: "the ledger is not copied to a bucket: set AUDIT_ANCHOR_BUCKET"}
	}
	if err := exchangeIn(ctx).record(ctx, ""); err != nil {
		return nil, err
	}
	a.Ledger.StartAnchor()
	return StartAnchor202Response{}, nil
}

func holdOf(h ledger.Hold) Hold {
	return Hold{
		Id: h.ID, Since: openapi_types.Date{Time: h.Since}, Until: openapi_types.Date{Time: h.Until}, Reason: h.Reason,
		PlacedBy: h.PlacedBy, PlacedAt: h.PlacedAt, LiftedAt: h.LiftedAt,
	}
}

// ListHolds lists legal holds.
func (a operations) ListHolds(ctx context.Context, _ ListHoldsRequestObject) (ListHoldsResponseObject, error) {
	list, err := ledger.Holds(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	out := ListHolds200JSONResponse{Items: make([]Hold, len(list))}
	for i, h := range list {
		out.Items[i] = holdOf(h)
	}
	return out, nil
}

// change is the event of a change that the exchange's caller makes.
func (x *exchange) change() *audit.Event {
	e := x.event
	e.OccurredAt = x.a.Now()
	e.Phase, e.Decision, e.Status = audit.PhaseFinished, audit.DecisionAllow, http.StatusOK
	return &e
}

// PlaceHold keeps retention from dropping the events of a time.
func (a operations) PlaceHold(ctx context.Context, in PlaceHoldRequestObject) (PlaceHoldResponseObject, error) {
	h, err := a.Ledger.PlaceHold(ctx, exchangeIn(ctx).change(), in.Body.Since.Time, in.Body.Until.Time, in.Body.Reason)
	if errors.Is(err, ledger.ErrBadHold) {
		p := malformed("bad-body", "%s", err)
		p.Field = "until"
		return nil, p
	}
	if err != nil {
		return nil, err
	}
	return PlaceHold201JSONResponse(holdOf(h)), nil
}

// LiftHold ends a hold.
func (a operations) LiftHold(ctx context.Context, in LiftHoldRequestObject) (LiftHoldResponseObject, error) {
	err := a.Ledger.LiftHold(ctx, exchangeIn(ctx).change(), in.HoldId)
	if errors.Is(err, ledger.ErrNoHold) {
		return nil, &problem{Status: http.StatusNotFound, Code: "no-such-hold", Detail: "there is no such hold in force: see GET " + BasePath + "/audit/holds"}
	}
	if err != nil {
		return nil, err
	}
	return LiftHold204Response{}, nil
}
