// Which variables of an environment are hidden on a terminal, and an environment in an editor.

package convoxclient

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"rackgateway/pkg/racktest/wire"
)

// envMaskConfig is the app's file of configuration that lists the hidden keys. Only the CLI cares for it: the rack
// hands out every value.
const envMaskConfig = "cli-env-mask"

// maskedKeys are the hidden keys; none when they cannot be read, for whatever reason.
func (run *invocation) maskedKeys() []string {
	var a wire.AppConfig
	if err := run.get(run.appPath("/configs/%s", envMaskConfig), &a); err != nil {
		return nil
	}
	var keys []string
	for key := range strings.SplitSeq(a.Value, ",") {
		if key = strings.TrimSpace(key); key != "" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func cmdEnvMask(run *invocation) error {
	for _, key := range run.maskedKeys() {
		run.printf("%s\n", key)
	}
	return nil
}

func cmdEnvMaskSet(run *invocation) error {
	keys := run.maskedKeys()
	for _, key := range run.args {
		if strings.Contains(key, "=") {
			return errors.New("use `convox env set KEY=VALUE` to set env values. `convox env mask set` takes key names only")
		}
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return run.setMask("Setting", keys)
}

func cmdEnvMaskUnset(run *invocation) error {
	keys := slices.DeleteFunc(run.maskedKeys(), func(key string) bool { return slices.Contains(run.args, key) })
	return run.setMask("Unsetting", keys)
}

// setMask writes the list, and reads it back to see whether the rack kept it.
func (run *invocation) setMask(doing string, keys []string) error {
	slices.Sort(keys)
	run.start("%s masked env keys %s", doing, strings.Join(run.args, ", "))
	value := strings.Join(keys, ",")
	path := run.appPath("/configs/%s", envMaskConfig)
	unsupported := func() error {
		run.printf("\nWarning: this rack version may not support env masking\n")
		return nil
	}
	if err := run.put(path, url.Values{"value": {base64.StdEncoding.EncodeToString([]byte(value))}}); err != nil {
		if text := err.Error(); strings.Contains(text, "response status 404") || strings.Contains(text, "app config not found") {
			return unsupported()
		}
		return err
	}
	var a wire.AppConfig
	if err := run.get(path, &a); err != nil || a.Value != value {
		return unsupported()
	}
	return run.done()
}

// cmdEnvEdit lets CLI.Edit change the environment as text.
func cmdEnvEdit(run *invocation) error {
	if run.cli.Edit == nil {
		return errors.New("no editor")
	}
	env, err := run.env()
	if err != nil {
		return err
	}
	env = parseEnv(run.cli.Edit(formatEnv(env)))
	keys := make([]string, 0, len(env))
	for key := range env {
		keys = append(keys, key)
	}
	return run.setEnv("Setting", keys, env)
}

// cmdCreateFrom makes a release of the build of one and the environment of another.
func cmdCreateFrom(run *invocation) error {
	if run.flags["build-from"] == "" || run.flags["env-from"] == "" {
		return errors.New("must specify both --build-from and --env-from")
	}
	if _, err := run.appGet(run.app()); err != nil {
		return err
	}
	built, err := run.release(run.flags["build-from"])
	if err != nil {
		return err
	}
	set, err := run.release(run.flags["env-from"])
	if err != nil {
		return err
	}
	run.printf("Using build from release: %s\nUsing env from release: %s\n", built.ID, set.ID)
	form := url.Values{"build": {built.Build}, "env": {set.Env}, "description": {
		fmt.Sprintf("Created from build release: %s and environment release: %s", built.ID, set.ID)}}
	var rel wire.Release
	if err := run.post(run.appPath("/releases"), form, &rel); err != nil {
		return err
	}
	run.printf("Created release: %s\n", rel.ID)
	return run.done()
}
