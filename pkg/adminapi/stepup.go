package adminapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
)

// stepUpPage is where a person gives a second factor.
const stepUpPage = "/login/u2f"

// stepUp has somebody who may do this, and lacks the factor for it, asked for the factor: the answer names the step-up
// that has to be approved. With the grant for this very operation the request goes on, and the grant is spent.
func (x *exchange) stepUp(ctx context.Context, refused *problem) *problem {
	if x.decision.Code == access.CodeEnrolmentNeeded {
		refused.Detail += ": see " + x.a.Origin.Scheme + "://" + x.a.Origin.Host + stepUpPage
		return refused
	}
	binding, bad := x.binding()
	if bad != nil {
		return bad
	}
	if x.decision.Level == access.LevelAlways && x.decision.Code == access.CodeFactorNeeded {
		id, spent, err := x.a.Credentials.SpendStepUp(ctx, x.principal.TokenID, "", binding)
		if err != nil {
			return unavailable(err)
		}
		if spent {
			x.grant = id
			x.event.Detail.Params.Add("step_up", id.String()) // the record leads from the deed to its approval by it
			return x.decide(x.op.Rule)
		}
	}
	request := credential.StepUpRequest{
		TokenID: x.principal.TokenID, Request: x.id, Mode: credential.StepUpConsole, Level: x.decision.Level, Binding: binding, Address: x.address,
	}
	if x.decision.Code == access.CodeSignInFactor {
		request.Level = access.LevelStepUp
	}
	if !x.session {
		request.Mode, request.Words = credential.StepUpPage, credential.NewWords(rand.Reader)
	}
	asked, err := x.open(ctx, request, x.op.Rule.Action, strings.ToLower(x.op.Summary[:1])+x.op.Summary[1:])
	if err != nil {
		return stepUpProblem(err)
	}
	page := x.a.Origin.Scheme + "://" + x.a.Origin.Host + stepUpPage + "?token=" + asked.ID.String()
	refused.stepUp = &StepUpAsked{Id: asked.ID, Page: page}
	if asked.Words != "" {
		refused.stepUp.Words = &asked.Words
		refused.Detail += ": open " + page + " , give it there with the words " + asked.Words + ", and send this again"
	}
	x.event.Detail.Params.Add("step_up", asked.ID.String())
	return refused
}

// stepUpProblem says why no factor was asked for.
func stepUpProblem(err error) *problem {
	var bad *credential.RefusedError
	switch {
	case errors.Is(err, credential.ErrStepUpTooMany):
		p := refuse(http.StatusTooManyRequests, "too-many-challenges", "five second factors that you were asked for are unanswered: give one of them, or wait a minute")
		p.retryAfter = 60
		return p
	case errors.As(err, &bad):
		return refuse(http.StatusUnauthorized, bad.Code, "%s", bad.Message)
	case errors.Is(err, credential.ErrUnavailable):
		return unavailable(err)
	}
	return internal(err)
}

// open asks for a factor.
func (x *exchange) open(ctx context.Context, request credential.StepUpRequest, action, sentence string) (credential.StepUp, error) {
	operation := credential.Operation{
		Action: action, Sentence: sentence, Method: x.r.Method, Path: x.r.URL.EscapedPath(), Client: clean(x.r.UserAgent()),
	}
	var err error
	if request.Operation, err = json.Marshal(operation); err != nil {
		return credential.StepUp{}, err
	}
	return x.a.Credentials.OpenStepUp(ctx, request)
}

// binding is the operation in all its parts: a grant for one is of no use for another.
func (x *exchange) binding() ([sha256.Size]byte, *problem) {
	body := []byte(nil)
	if x.op.changes() {
		var bad *problem
		if body, bad = x.conform(); bad != nil {
			return [sha256.Size]byte{}, bad
		}
	}
	sum := sha256.Sum256(body)
	parts := []string{x.principal.TokenID, x.op.ID, x.r.Method, x.r.URL.EscapedPath(), x.r.URL.RawQuery, string(sum[:])}
	hash := sha256.New()
	for _, part := range parts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		_, _ = hash.Write(length[:])
		_, _ = io.WriteString(hash, part)
	}
	return [sha256.Size]byte(hash.Sum(nil)), nil
}
