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
		Description: s.Description, UpdatedAt: s.UpdatedAt, UpdatedBy: some(s.UpdatedBy), Ignored: some(s.Ignored), PerApp: s.PerApp,
	}
	if s.Type == access.SettingInt {
		least, most := int(s.Min), int(s.Max)
		out.Min, out.Max = &least, &most
	}
	if s.App != "" {
		out.App, out.Inherited = &s.App, &s.Inherited
		return out
	}
	if s.PerApp {
		apps := make([]AppSetting, len(s.Apps))
		for i, own := range s.Apps {
			apps[i] = AppSetting{
				App: own.App, Value: own.Value, Source: AppSettingSource(own.Source),
				UpdatedAt: own.UpdatedAt, UpdatedBy: some(own.UpdatedBy), Ignored: some(own.Ignored),
			}
		}
		out.Apps = &apps
	}
	return out
}

func (a *API) settings(ctx context.Context, app string) (SettingList, error) {
	settings, err := a.Reader.ListSettings(ctx, app)
	if err != nil {
		return SettingList{}, err
	}
	out := SettingList{Items: make([]Setting, len(settings))}
	for i, setting := range settings {
		out.Items[i] = settingOf(setting)
	}
	return out, nil
}

// settingHistory lists the events of a setting, for an app or, where that is empty, for the gateway and all apps. It
// shows part of the record to people who may see settings, and nothing but changes of this one.
func (a *API) settingHistory(ctx context.Context, app, key string, limit *int, cursor *string) (EventPage, error) {
	setting, err := a.Reader.Setting(ctx, app, key)
	if err != nil {
		return EventPage{}, err
	}
	return a.events(ctx, audit.Filter{
		Actions: []string{"setting.set", "setting.unset"}, App: app, Resource: setting.Key, Phase: audit.PhaseFinished,
		Limit: limitOf(limit), Before: audit.Cursor(text(cursor)),
	})
}

// ListSettings lists every setting.
func (a operations) ListSettings(ctx context.Context, _ ListSettingsRequestObject) (ListSettingsResponseObject, error) {
	list, err := a.settings(ctx, "")
	if err != nil {
		return nil, err
	}
	return ListSettings200JSONResponse(list), nil
}

// ListAppSettings lists the settings of an app.
func (a operations) ListAppSettings(ctx context.Context, in ListAppSettingsRequestObject) (ListAppSettingsResponseObject, error) {
	list, err := a.settings(ctx, in.AppName)
	if err != nil {
		return nil, err
	}
	return ListAppSettings200JSONResponse(list), nil
}

// SetSetting changes a setting.
func (a operations) SetSetting(ctx context.Context, in SetSettingRequestObject) (SetSettingResponseObject, error) {
	setting, err := a.Writer.SetSetting(ctx, exchangeIn(ctx).actor(), "", in.SettingKey, in.Body.Value)
	if err != nil {
		return nil, err
	}
	return SetSetting200JSONResponse(settingOf(setting)), nil
}

// SetAppSetting changes a setting for an app.
func (a operations) SetAppSetting(ctx context.Context, in SetAppSettingRequestObject) (SetAppSettingResponseObject, error) {
	setting, err := a.Writer.SetSetting(ctx, exchangeIn(ctx).actor(), in.AppName, in.SettingKey, in.Body.Value)
	if err != nil {
		return nil, err
	}
	return SetAppSetting200JSONResponse(settingOf(setting)), nil
}

// UnsetSetting lets a setting fall back.
func (a operations) UnsetSetting(ctx context.Context, in UnsetSettingRequestObject) (UnsetSettingResponseObject, error) {
	setting, err := a.Writer.UnsetSetting(ctx, exchangeIn(ctx).actor(), "", in.SettingKey)
	if err != nil {
		return nil, err
	}
	return UnsetSetting200JSONResponse(settingOf(setting)), nil
}

// UnsetAppSetting lets an app's setting fall back to the gateway's.
func (a operations) UnsetAppSetting(ctx context.Context, in UnsetAppSettingRequestObject) (UnsetAppSettingResponseObject, error) {
	setting, err := a.Writer.UnsetSetting(ctx, exchangeIn(ctx).actor(), in.AppName, in.SettingKey)
	if err != nil {
		return nil, err
	}
	return UnsetAppSetting200JSONResponse(settingOf(setting)), nil
}

// GetSettingHistory lists the changes of a setting.
func (a operations) GetSettingHistory(ctx context.Context, in GetSettingHistoryRequestObject) (GetSettingHistoryResponseObject, error) {
	events, err := a.settingHistory(ctx, "", in.SettingKey, in.Params.Limit, in.Params.Cursor)
	if err != nil {
		return nil, err
	}
	return GetSettingHistory200JSONResponse(events), nil
}

// GetAppSettingHistory lists the changes of a setting for an app.
func (a operations) GetAppSettingHistory(ctx context.Context, in GetAppSettingHistoryRequestObject) (GetAppSettingHistoryResponseObject, error) {
	events, err := a.settingHistory(ctx, in.AppName, in.SettingKey, in.Params.Limit, in.Params.Cursor)
	if err != nil {
		return nil, err
	}
	return GetAppSettingHistory200JSONResponse(events), nil
}
