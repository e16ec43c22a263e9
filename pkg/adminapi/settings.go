package adminapi

import (
	"context"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

func settingOf(s directory.Setting) Setting {
	out := Setting{
		Key: s.Key, Type: SettingType(s.Type), Unit: some(s.Unit), Value: s.Value, Default: s.DefaultJSON(), Source: SettingSource(s.Source),
		Description: s.Description, UpdatedAt: s.UpdatedAt, UpdatedBy: some(s.UpdatedBy), Ignored: some(s.Ignored),
	}
	if s.Type == access.SettingInt {
		least, most := int(s.Min), int(s.Max)
		out.Min, out.Max = &least, &most
	}
	return out
}

// ListSettings lists every setting.
func (a operations) ListSettings(ctx context.Context, _ ListSettingsRequestObject) (ListSettingsResponseObject, error) {
	settings, err := a.Reader.ListSettings(ctx)
	if err != nil {
		return nil, err
	}
	out := ListSettings200JSONResponse{Items: make([]Setting, len(settings))}
	for i, setting := range settings {
		out.Items[i] = settingOf(setting)
	}
	return out, nil
}

// SetSetting changes a setting.
func (a operations) SetSetting(ctx context.Context, in SetSettingRequestObject) (SetSettingResponseObject, error) {
	setting, err := a.Writer.SetSetting(ctx, exchangeIn(ctx).actor(), in.SettingKey, in.Body.Value)
	if err != nil {
		return nil, err
	}
	return SetSetting200JSONResponse(settingOf(setting)), nil
}

// UnsetSetting lets a setting fall back.
func (a operations) UnsetSetting(ctx context.Context, in UnsetSettingRequestObject) (UnsetSettingResponseObject, error) {
	setting, err := a.Writer.UnsetSetting(ctx, exchangeIn(ctx).actor(), in.SettingKey)
	if err != nil {
		return nil, err
	}
	return UnsetSetting200JSONResponse(settingOf(setting)), nil
}

// GetSettingHistory lists the events of a setting. It shows part of the record to people who may see settings, and
// nothing but changes of this one.
func (a operations) GetSettingHistory(ctx context.Context, in GetSettingHistoryRequestObject) (GetSettingHistoryResponseObject, error) {
	setting, err := a.Reader.Setting(ctx, in.SettingKey)
	if err != nil {
		return nil, err
	}
	events, err := a.events(ctx, audit.Filter{
		Actions: []string{"setting.set", "setting.unset"}, Resource: setting.Key, Phase: audit.PhaseFinished,
		Limit: limitOf(in.Params.Limit), Before: audit.Cursor(text(in.Params.Cursor)),
	})
	if err != nil {
		return nil, err
	}
	return GetSettingHistory200JSONResponse(events), nil
}
