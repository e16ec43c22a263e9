package faults

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
)

var suite testenv.Suite

// atOnce is how many tests run at once: they spend their time waiting.
const atOnce = "8"

func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", atOnce); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := suite.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// long is whether each fault is repeated, for minutes.
var long = os.Getenv("FAULTS") == "long"

// pick chooses between the short form and the long one.
func pick[T any](short, whenLong T) T {
	if long {
		return whenLong
	}
	return short
}

// patience is how long a test waits for what must come, however slow the machine is.
const patience = 2 * time.Minute

// chance is a source of random moments. Its seed is printed, so that a run can be repeated by FAULTS_SEED.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("FAULTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("FAULTS_SEED: %v", err)
		}
	}
	t.Logf("seed %d", seed)
	name := fnv.New64a()
	_, _ = name.Write([]byte(t.Name()))
	return rand.New(rand.NewPCG(seed, name.Sum64()))
}

// moment lets the load go on for a while between the two times given: it is what a fault happens at, and nothing
// is waited for.
func moment(ctx context.Context, random *rand.Rand, least, most time.Duration) {
	timer := time.NewTimer(least + time.Duration(random.Int64N(int64(most-least)+1)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// start is an environment whose rack remembers everything it saw.
func start(t *testing.T, opts testenv.Options) *testenv.Env {
	t.Helper()
	return startOn(t, &suite, opts)
}

// startOn is start with the programs of a suite of its own.
func startOn(t *testing.T, suite *testenv.Suite, opts testenv.Options) *testenv.Env {
	t.Helper()
	opts.Rack = racktest.Options{Journal: 2_000_000, StartTime: -1}
	return suite.Start(t, opts)
}

// eventually waits until something holds; what says what it was, for when it never does.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	for !holds() {
		select {
		case <-every.C:
		case <-ctx.Done():
			t.Fatalf("it never came about that %s", what)
		}
	}
}
