package doctor

import (
	"context"
	"math"
	"strings"

	"rackgateway/pkg/secret"
)

func configurationChecks() []check {
	return []check{
		{
			id: "configuration", group: "Configuration", title: "The configuration has no mistakes, and no names that look like slips",
			remedy:  "mend what is named; admin config shows what is in force and where it came from",
			examine: examineConfiguration,
		},
		{
			id: "keys-strong", group: "Configuration", title: "The keys are long and random",
			remedy:  "make new ones with openssl rand -hex 32, and change over as docs/operations.md says",
			examine: examineKeys,
		},
		{
			id: "keys-current", group: "Configuration", title: "No key of the past is kept for longer than a change takes",
			remedy:  "run admin rekey, restart every admin, and take APP_SECRET_KEY_PREVIOUS away",
			examine: examinePreviousKeys,
		},
		{
			id: "development", group: "Configuration", title: "What only a trial may do is not allowed",
			remedy:  "take DEV_MODE away",
			examine: examineDevelopment,
		},
	}
}

func examineConfiguration(_ context.Context, d *Doctor, _ *sight) finding {
	if len(d.Slips) > 0 {
		return fail("%s", strings.Join(d.Slips, "; "))
	}
	return pass("everything that is set is known, and can be used")
}

// leastRandomness is how many bits of randomness a key must appear to have. 32 random bytes appear to have well over
// 200 by this estimate, whether written as hex or base64; sentences of that length and repeated patterns have less.
const leastRandomness = 150

func examineKeys(_ context.Context, d *Doctor, _ *sight) finding {
	keys := []struct {
		name string
		key  secret.Text
	}{{"APP_SECRET_KEY", d.Config.Secrets.AppKey}, {"AUDIT_MAC_KEY", d.Config.Audit.MACKey}}
	var missing, weak []string
	for _, k := range keys {
		switch {
		case k.key.IsZero():
			missing = append(missing, k.name)
		case randomness(k.key.Reveal()) < leastRandomness:
			weak = append(weak, k.name)
		}
	}
	switch {
	case len(weak) > 0:
		return fail("%s does not look random: it repeats itself, or is words", strings.Join(weak, " and "))
	case len(missing) > 0:
		return unknown("%s is not set here: run this with the environment of admin serve", strings.Join(missing, " and "))
	case keys[0].key.Equal(keys[1].key):
		return fail("APP_SECRET_KEY and AUDIT_MAC_KEY are the same, and the proxy has one of them")
	}
	return pass("both are there, differ, and look random")
}

// randomness estimates the bits of randomness of a text from above: by how its characters are spread, and by how much
// of it repeats. What it calls weak is weak; it cannot see that something was derived from a word.
func randomness(text string) float64 {
	counts := make(map[rune]int)
	n := 0
	for _, r := range text {
		counts[r]++
		n++
	}
	var entropy float64
	for _, count := range counts {
		p := float64(count) / float64(n)
		entropy -= p * math.Log2(p)
	}
	// Pairs that came before say nothing new.
	pairs, fresh := make(map[string]bool), 0
	for i := 0; i+3 <= len(text); i++ {
		if part := text[i : i+3]; !pairs[part] {
			pairs[part] = true
			fresh++
		}
	}
	if len(text) < 3 {
		return entropy * float64(n)
	}
	return entropy * float64(n) * float64(fresh) / float64(len(text)-2)
}

func examinePreviousKeys(_ context.Context, d *Doctor, _ *sight) finding {
	if d.Config.Secrets.AppKeyPrevious.IsZero() {
		return pass("APP_SECRET_KEY_PREVIOUS is not set")
	}
	return fail("APP_SECRET_KEY_PREVIOUS is set: whoever has the key of before can still open what it sealed")
}

func examineDevelopment(_ context.Context, d *Doctor, _ *sight) finding {
	if d.Config.Server.DevMode {
		return fail("DEV_MODE is on")
	}
	return pass("DEV_MODE is off")
}
