package adminapi

import (
	"context"
	"strconv"

	"github.com/google/uuid"

	"rackgateway/pkg/notify"
)

func choicesOf(list []notify.Choice) NoticeChoiceList {
	out := NoticeChoiceList{Items: make([]NoticeChoice, len(list))}
	for i, c := range list {
		out.Items[i] = NoticeChoice{Topic: c.Name, Description: c.Description, Own: c.Own, Mail: c.Mail, Slack: c.Slack}
	}
	return out
}

// ListMyNotices lists what the caller is told of.
func (a operations) ListMyNotices(ctx context.Context, _ ListMyNoticesRequestObject) (ListMyNoticesResponseObject, error) {
	list, err := a.Notices.Choices(ctx, exchangeIn(ctx).principal.UserID)
	if err != nil {
		return nil, err
	}
	return ListMyNotices200JSONResponse(choicesOf(list)), nil
}

// ChooseMyNotices changes what the caller is told of.
func (a operations) ChooseMyNotices(ctx context.Context, in ChooseMyNoticesRequestObject) (ChooseMyNoticesResponseObject, error) {
	x := exchangeIn(ctx)
	wishes := make([]notify.Wish, len(in.Body.Items))
	for i, w := range in.Body.Items {
		wishes[i] = notify.Wish{Topic: w.Topic, Mail: w.Mail, Slack: w.Slack}
	}
	list, err := a.Notices.Choose(ctx, x.actor(), x.principal.UserID, wishes)
	if err != nil {
		return nil, err
	}
	return ChooseMyNotices200JSONResponse(choicesOf(list)), nil
}

func (a operations) integrations(ctx context.Context) (IntegrationList, error) {
	media, err := a.Notices.Media(ctx)
	if err != nil {
		return IntegrationList{}, err
	}
	progress, err := a.Notices.Progress(ctx)
	if err != nil {
		return IntegrationList{}, err
	}
	out := IntegrationList{Items: make([]Integration, len(media)), Behind: &progress.Behind}
	for i, m := range media {
		out.Items[i] = Integration{
			Medium: Medium(m.Medium), Configured: m.Configured, Connected: m.Configured, LogOnly: m.LogOnly, From: some(m.From), PausedUntil: m.PausedUntil,
			Failures: m.Failures, Trouble: some(m.Trouble), FailedAt: m.FailedAt, SucceededAt: m.SucceededAt,
			Waiting: m.Waiting, Held: m.Held, Dead: m.Dead, SentToday: m.SentToday, Oldest: m.Oldest,
		}
		if m.Slack != nil {
			out.Items[i].Configured = m.Slack.Configured
			if m.Slack.Connected {
				out.Items[i].Team, out.Items[i].ConnectedAt, out.Items[i].ConnectedBy = some(m.Slack.TeamName), &m.Slack.InstalledAt, some(m.Slack.InstalledBy)
			}
		}
	}
	return out, nil
}

// ListIntegrations tells how mail and Slack do.
func (a operations) ListIntegrations(ctx context.Context, _ ListIntegrationsRequestObject) (ListIntegrationsResponseObject, error) {
	out, err := a.integrations(ctx)
	if err != nil {
		return nil, err
	}
	return ListIntegrations200JSONResponse(out), nil
}

// BeginSlack says where to send the browser to connect Slack.
func (a operations) BeginSlack(ctx context.Context, _ BeginSlackRequestObject) (BeginSlackResponseObject, error) {
	address, err := a.Notices.BeginSlack(exchangeIn(ctx).actor())
	if err != nil {
		return nil, err
	}
	return BeginSlack200JSONResponse{Url: address}, nil
}

// FinishSlack connects Slack.
func (a operations) FinishSlack(ctx context.Context, in FinishSlackRequestObject) (FinishSlackResponseObject, error) {
	if _, err := a.Notices.FinishSlack(ctx, exchangeIn(ctx).actor(), in.Body.Code, in.Body.State); err != nil {
		return nil, err
	}
	out, err := a.integrations(ctx)
	if err != nil {
		return nil, err
	}
	return FinishSlack200JSONResponse(out), nil
}

// RemoveSlack disconnects Slack.
func (a operations) RemoveSlack(ctx context.Context, _ RemoveSlackRequestObject) (RemoveSlackResponseObject, error) {
	if err := a.Notices.RemoveSlack(ctx, exchangeIn(ctx).actor()); err != nil {
		return nil, err
	}
	return RemoveSlack204Response{}, nil
}

// ListSlackChannels lists channels.
func (a operations) ListSlackChannels(ctx context.Context, _ ListSlackChannelsRequestObject) (ListSlackChannelsResponseObject, error) {
	list, err := a.Notices.Channels(ctx)
	if err != nil {
		return nil, err
	}
	out := ListSlackChannels200JSONResponse{Items: make([]SlackChannel, len(list))}
	for i, c := range list {
		out.Items[i] = SlackChannel{Id: c.ID, Name: c.Name}
	}
	return out, nil
}

// TestNotice sends a test, to a channel or to somebody who is a user: it is no way to write to strangers.
func (a operations) TestNotice(ctx context.Context, in TestNoticeRequestObject) (TestNoticeResponseObject, error) {
	notice, err := a.Notices.Test(ctx, exchangeIn(ctx).actor(), string(in.Body.Medium), in.Body.Recipient)
	if err != nil {
		return nil, err
	}
	return TestNotice202JSONResponse(noticeOf(notice)), nil
}

func ruleOf(r notify.Rule) NoticeRule {
	return NoticeRule{Id: r.ID, ChannelId: r.ChannelID, ChannelName: r.ChannelName, Patterns: r.Patterns, CreatedAt: r.CreatedAt, CreatedBy: r.CreatedBy}
}

// ListNoticeRules lists the rules of channels.
func (a operations) ListNoticeRules(ctx context.Context, _ ListNoticeRulesRequestObject) (ListNoticeRulesResponseObject, error) {
	rules, err := a.Notices.Rules(ctx)
	if err != nil {
		return nil, err
	}
	out := ListNoticeRules200JSONResponse{Items: make([]NoticeRule, len(rules))}
	for i, r := range rules {
		out.Items[i] = ruleOf(r)
	}
	return out, nil
}

// AddNoticeRule adds a rule.
func (a operations) AddNoticeRule(ctx context.Context, in AddNoticeRuleRequestObject) (AddNoticeRuleResponseObject, error) {
	rule, err := a.Notices.AddRule(ctx, exchangeIn(ctx).actor(), in.Body.ChannelId, text(in.Body.ChannelName), in.Body.Patterns)
	if err != nil {
		return nil, err
	}
	return AddNoticeRule201JSONResponse(ruleOf(rule)), nil
}

// RemoveNoticeRule ends a rule.
func (a operations) RemoveNoticeRule(ctx context.Context, in RemoveNoticeRuleRequestObject) (RemoveNoticeRuleResponseObject, error) {
	if err := a.Notices.RemoveRule(ctx, exchangeIn(ctx).actor(), in.RuleId); err != nil {
		return nil, err
	}
	return RemoveNoticeRule204Response{}, nil
}

func noticeOf(n notify.Notice) Notice {
	out := Notice{
		Id: n.ID, Topic: n.Topic, Medium: Medium(n.Medium), Recipient: n.Recipient, Headline: n.Headline, State: NoticeState(n.State), Attempts: n.Attempts,
		Trouble: some(n.Trouble), HappenedAt: n.At, MadeAt: n.MadeAt, EndedAt: n.EndedAt,
	}
	if n.Request != uuid.Nil {
		out.RequestId = &n.Request
	}
	if n.State == "waiting" {
		out.NextAt = &n.NextAt
	}
	return out
}

func noticesOf(list []notify.Notice) []Notice {
	out := make([]Notice, len(list))
	for i, n := range list {
		out[i] = noticeOf(n)
	}
	return out
}

// ListNotices lists the outbox.
func (a operations) ListNotices(ctx context.Context, in ListNoticesRequestObject) (ListNoticesResponseObject, error) {
	filter := notify.Filter{State: text(in.Params.State), Medium: text(in.Params.Medium), Limit: limitOf(in.Params.Limit)}
	if filter.Limit == 0 {
		filter.Limit = 100
	}
	if cursor := text(in.Params.Cursor); cursor != "" {
		before, err := strconv.ParseInt(cursor, 10, 64)
		if err != nil || before <= 0 {
			return nil, malformed("bad-cursor", "that is not a cursor of this list: begin at the first page")
		}
		filter.Before = before
	}
	size := filter.Limit
	filter.Limit++
	list, err := a.Notices.List(ctx, filter)
	if err != nil {
		return nil, err
	}
	out := ListNotices200JSONResponse{}
	if len(list) > size {
		list = list[:size]
		out.Next = next(strconv.FormatInt(list[size-1].Number, 10))
	}
	out.Items = noticesOf(list)
	return out, nil
}

// RetryNotices tries all dead notices again.
func (a operations) RetryNotices(ctx context.Context, _ RetryNoticesRequestObject) (RetryNoticesResponseObject, error) {
	many, err := a.Notices.Retry(ctx, exchangeIn(ctx).actor(), uuid.Nil, "")
	if err != nil {
		return nil, err
	}
	return RetryNotices200JSONResponse{Retried: many}, nil
}

// RetryNotice tries one again.
func (a operations) RetryNotice(ctx context.Context, in RetryNoticeRequestObject) (RetryNoticeResponseObject, error) {
	if _, err := a.Notices.Retry(ctx, exchangeIn(ctx).actor(), in.NoticeId, ""); err != nil {
		return nil, err
	}
	return RetryNotice204Response{}, nil
}

// GetUserMail tells whether mail reaches somebody, and what they were told last.
func (a operations) GetUserMail(ctx context.Context, in GetUserMailRequestObject) (GetUserMailResponseObject, error) {
	user, err := a.Reader.User(ctx, in.UserId.String()) // who was removed too
	if err != nil {
		return nil, err
	}
	mail, err := a.Notices.MailOf(ctx, user.ID, user.Email)
	if err != nil {
		return nil, err
	}
	out := GetUserMail200JSONResponse{State: UserMailState(mail.State), Items: noticesOf(mail.Last)}
	if mail.State != notify.Fine {
		out.Reason, out.Since = some(mail.Reason), &mail.Since
	}
	return out, nil
}
