package adminapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/mfa"
)

func overview(o mfa.Overview) FactorOverview {
	out := FactorOverview{
		Email: o.Email, Items: make([]Factor, len(o.Factors)), BackupCodesLeft: o.BackupCodes, Required: o.Required, LockedUntil: o.LockedUntil,
		Kinds: make([]FactorKind, len(o.Kinds)),
	}
	for i, f := range o.Factors {
		out.Items[i] = factorOf(f)
	}
	for i, kind := range o.Kinds {
		out.Kinds[i] = FactorKind(kind)
	}
	return out
}

func factorOf(f mfa.Factor) Factor {
	return Factor{Id: f.ID, Kind: FactorKind(f.Kind), Name: f.Name, CreatedAt: f.CreatedAt, UsedAt: f.UsedAt, Synced: f.Synced}
}

func (x *exchange) stepUpOf(s *mfa.StepUp) StepUp {
	out := StepUp{
		Id: s.ID, Level: StepUpLevelStepUp, State: StepUpState(s.Outcome), Operation: s.Operation.Sentence, Details: []NamedText{},
		Device: s.Device, NewDevice: s.NewDevice, NewAddress: s.NewAddress, WordsNeeded: s.Words != "", AddressNeeded: s.AddressNeeded(),
		PageOnly: s.Mode == credential.StepUpCallback, Streamed: s.Operation.Streamed,
		OpenedAt: s.OpenedAt, ExpiresAt: s.ExpiresAt,
	}
	if s.Always {
		out.Level = StepUpLevelAlways
	}
	switch {
	case s.Pending(x.a.Now()):
		out.State = StepUpStatePending
	case s.Outcome == "":
		out.State = StepUpStateExpired
	}
	if s.Address.IsValid() {
		out.Address = s.Address.String()
	}
	for _, d := range s.Operation.Details {
		out.Details = append(out.Details, NamedText{Name: d[0], Value: d[1]})
	}
	return out
}

// browserSession is the id of the session that a request was made in.
func (x *exchange) browserSession() uuid.UUID { return mustID(x.principal.TokenID) }

// ListMyFactors lists the caller's own factors.
func (a operations) ListMyFactors(ctx context.Context, _ ListMyFactorsRequestObject) (ListMyFactorsResponseObject, error) {
	o, err := a.Factors.List(ctx, exchangeIn(ctx).principal.UserID)
	if err != nil {
		return nil, err
	}
	return ListMyFactors200JSONResponse(overview(o)), nil
}

// BeginEnrolment begins to add a factor.
func (a operations) BeginEnrolment(ctx context.Context, in BeginEnrolmentRequestObject) (BeginEnrolmentResponseObject, error) {
	x := exchangeIn(ctx)
	e, err := a.Factors.BeginEnrolment(ctx, x.actor(), x.browserSession(), mfa.Kind(in.Body.Kind), in.Body.Name)
	if err != nil {
		return nil, err
	}
	out := BeginEnrolment201JSONResponse{Id: e.ID, Kind: FactorKind(e.Kind), ExpiresAt: e.ExpiresAt}
	if len(e.PublicKey) > 0 {
		out.PublicKey = &e.PublicKey
	}
	if e.Kind == mfa.TOTP {
		secret, uri, qr := e.Secret.Reveal(), e.URI.Reveal(), e.QRDataURL()
		out.Secret, out.Uri, out.Qr = &secret, &uri, &qr
	}
	return out, nil
}

// FinishEnrolment adds the factor.
func (a operations) FinishEnrolment(ctx context.Context, in FinishEnrolmentRequestObject) (FinishEnrolmentResponseObject, error) {
	x := exchangeIn(ctx)
	f, codes, err := a.Factors.FinishEnrolment(ctx, x.actor(), x.browserSession(), in.EnrolmentId, mfa.Proof{
		Code: text(in.Body.Code), Response: raw(in.Body.Credential), First: x.decision.MFA == access.MFAFirst,
	})
	if err != nil {
		return nil, err
	}
	out := FinishEnrolment201JSONResponse{Factor: factorOf(f)}
	if len(codes) > 0 {
		out.BackupCodes = &codes
	}
	return out, nil
}

func raw(p *json.RawMessage) json.RawMessage {
	if p == nil {
		return nil
	}
	return *p
}

// RenameMyFactor gives a factor another name.
func (a operations) RenameMyFactor(ctx context.Context, in RenameMyFactorRequestObject) (RenameMyFactorResponseObject, error) {
	x := exchangeIn(ctx)
	if err := a.Factors.Rename(ctx, x.actor(), in.FactorId, in.Body.Name); err != nil {
		return nil, err
	}
	o, err := a.Factors.List(ctx, x.principal.UserID)
	if err != nil {
		return nil, err
	}
	return RenameMyFactor200JSONResponse(overview(o)), nil
}

// RemoveMyFactor removes a factor.
func (a operations) RemoveMyFactor(ctx context.Context, in RemoveMyFactorRequestObject) (RemoveMyFactorResponseObject, error) {
	x := exchangeIn(ctx)
	if err := a.Factors.Remove(ctx, x.actor(), x.browserSession(), in.FactorId); err != nil {
		return nil, err
	}
	return RemoveMyFactor204Response{}, nil
}

// MakeBackupCodes makes ten backup codes.
func (a operations) MakeBackupCodes(ctx context.Context, _ MakeBackupCodesRequestObject) (MakeBackupCodesResponseObject, error) {
	codes, err := a.Factors.MakeBackupCodes(ctx, exchangeIn(ctx).actor())
	if err != nil {
		return nil, err
	}
	return MakeBackupCodes201JSONResponse{Codes: codes}, nil
}

// ListMyTrustedDevices lists the browsers that the caller trusts.
func (a operations) ListMyTrustedDevices(ctx context.Context, _ ListMyTrustedDevicesRequestObject) (ListMyTrustedDevicesResponseObject, error) {
	devices, err := a.Factors.TrustedDevices(ctx, mustID(exchangeIn(ctx).principal.UserID))
	if err != nil {
		return nil, err
	}
	out := ListMyTrustedDevices200JSONResponse{Items: make([]TrustedDevice, len(devices))}
	for i, d := range devices {
		out.Items[i] = TrustedDevice{Id: d.ID, UserAgent: d.UserAgent, CreatedAt: d.CreatedAt, ExpiresAt: d.ExpiresAt}
		if d.Address.IsValid() {
			out.Items[i].Address = d.Address.String()
		}
	}
	return out, nil
}

// DistrustMyDevice has a browser asked for a factor again.
func (a operations) DistrustMyDevice(ctx context.Context, in DistrustMyDeviceRequestObject) (DistrustMyDeviceResponseObject, error) {
	if err := a.Factors.Distrust(ctx, exchangeIn(ctx).actor(), in.TrustedId); err != nil {
		return nil, err
	}
	return DistrustMyDevice204Response{}, nil
}

// ListMyStepUps lists what the caller is asked for.
func (a operations) ListMyStepUps(ctx context.Context, _ ListMyStepUpsRequestObject) (ListMyStepUpsResponseObject, error) {
	x := exchangeIn(ctx)
	pending, err := a.Factors.Pending(ctx, mustID(x.principal.UserID))
	if err != nil {
		return nil, err
	}
	out := ListMyStepUps200JSONResponse{Items: make([]StepUp, len(pending))}
	for i, s := range pending {
		out.Items[i] = x.stepUpOf(s)
	}
	return out, nil
}

// OpenStepUp asks for a factor for the session itself.
func (a operations) OpenStepUp(ctx context.Context, _ OpenStepUpRequestObject) (OpenStepUpResponseObject, error) {
	x := exchangeIn(ctx)
	action, sentence := "step-up.open", "give a second factor for this browser"
	if !x.entry.Factor(a.Credentials.Settings(), "").Verified {
		action, sentence = "session.verify", "finish signing in"
	}
	asked, err := x.open(ctx, credential.StepUpRequest{
		TokenID: x.principal.TokenID, Request: x.id, Mode: credential.StepUpConsole, Level: access.LevelStepUp,
		Binding: sha256.Sum256([]byte("session " + x.principal.TokenID)), Address: x.address,
	}, action, sentence)
	if err != nil {
		return nil, stepUpProblem(err)
	}
	s, err := a.Factors.StepUp(ctx, mustID(x.principal.UserID), asked.ID)
	if err != nil {
		return nil, err
	}
	return OpenStepUp201JSONResponse(x.stepUpOf(s)), nil
}

// GetStepUp answers what the caller is asked for.
func (a operations) GetStepUp(ctx context.Context, in GetStepUpRequestObject) (GetStepUpResponseObject, error) {
	x := exchangeIn(ctx)
	s, err := a.Factors.StepUp(ctx, mustID(x.principal.UserID), in.StepUpId)
	if err != nil {
		return nil, err
	}
	return GetStepUp200JSONResponse(x.stepUpOf(s)), nil
}

// BeginAssertion makes a challenge for passkeys.
func (a operations) BeginAssertion(ctx context.Context, in BeginAssertionRequestObject) (BeginAssertionResponseObject, error) {
	x := exchangeIn(ctx)
	id, publicKey, err := a.Factors.BeginAssertion(ctx, x.actor(), x.browserSession(), in.StepUpId)
	if err != nil {
		return nil, err
	}
	return BeginAssertion201JSONResponse{Id: id, PublicKey: publicKey}, nil
}

// ApproveStepUp gives a factor.
func (a operations) ApproveStepUp(ctx context.Context, in ApproveStepUpRequestObject) (ApproveStepUpResponseObject, error) {
	x := exchangeIn(ctx)
	approval := mfa.Approval{
		Proof: mfa.Proof{Kind: mfa.Kind(in.Body.Kind), Code: text(in.Body.Code), Response: raw(in.Body.Credential)},
		Words: text(in.Body.Words), Trust: in.Body.TrustBrowser != nil && *in.Body.TrustBrowser,
		KnownAddress: in.Body.KnownAddress != nil && *in.Body.KnownAddress,
	}
	if in.Body.AssertionId != nil {
		approval.Ceremony = *in.Body.AssertionId
	}
	done, err := a.Factors.Approve(ctx, x.actor(), x.browserSession(), in.StepUpId, approval)
	if err != nil {
		return nil, err
	}
	if done.Device != "" {
		http.SetCookie(x.w, mfa.DeviceCookie(done.Device))
	}
	return ApproveStepUp200JSONResponse{StepUp: x.stepUpOf(done.StepUp)}, nil
}

// RefuseStepUp refuses it.
func (a operations) RefuseStepUp(ctx context.Context, in RefuseStepUpRequestObject) (RefuseStepUpResponseObject, error) {
	x := exchangeIn(ctx)
	s, err := a.Factors.Refuse(ctx, x.actor(), in.StepUpId)
	if err != nil {
		return nil, err
	}
	return RefuseStepUp200JSONResponse{StepUp: x.stepUpOf(s)}, nil
}

// ListFactors lists somebody's factors.
func (a operations) ListFactors(ctx context.Context, in ListFactorsRequestObject) (ListFactorsResponseObject, error) {
	o, err := a.Factors.List(ctx, in.UserId.String())
	if err != nil {
		return nil, err
	}
	return ListFactors200JSONResponse(overview(o)), nil
}

// ResetFactors takes all factors away from somebody.
func (a operations) ResetFactors(ctx context.Context, in ResetFactorsRequestObject) (ResetFactorsResponseObject, error) {
	o, err := a.Factors.Reset(ctx, exchangeIn(ctx).actor(), in.UserId.String())
	if err != nil {
		return nil, err
	}
	return ResetFactors200JSONResponse(overview(o)), nil
}

// UnlockFactors has somebody's factors checked again.
func (a operations) UnlockFactors(ctx context.Context, in UnlockFactorsRequestObject) (UnlockFactorsResponseObject, error) {
	o, err := a.Factors.Unlock(ctx, exchangeIn(ctx).actor(), in.UserId.String())
	if err != nil {
		return nil, err
	}
	return UnlockFactors200JSONResponse(overview(o)), nil
}

// SetDeviceHeadless says whether one of the caller's own devices has a browser.
func (a operations) SetDeviceHeadless(ctx context.Context, in SetDeviceHeadlessRequestObject) (SetDeviceHeadlessResponseObject, error) {
	x := exchangeIn(ctx)
	token, err := a.Writer.SetHeadless(ctx, x.actor(), in.TokenId, mustID(x.principal.UserID), in.Body.Headless)
	if err != nil {
		return nil, err
	}
	return SetDeviceHeadless200JSONResponse(a.token(token)), nil
}
