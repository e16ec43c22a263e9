package adminapi_test

import (
	"strconv"
	"testing"

	"rackgateway/pkg/adminapi"
)

// A Last-Event-ID is a place in the one spelling that messages have, or refused.
func FuzzPlace(f *testing.F) {
	for _, seed := range []string{"0", "17", "-1", "+5", "007", "9223372036854775807", "9223372036854775808", "1 ", "", "١"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		place, err := adminapi.PlaceOf(text)
		if err == nil && (place < 0 || strconv.FormatInt(place, 10) != text) {
			t.Errorf("%q is read as %d", text, place)
		}
	})
}
