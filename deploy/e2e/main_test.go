package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"rackgateway/pkg/testenv"
)

var (
	suite testenv.Suite

	// full is whether everything runs (`make e2e`), or what is quick (`make test`, `make e2e TESTFLAGS=-short`).
	full bool
	// freshFactors has everybody asked for second factors, and their tokens count as having given one (E2E_FACTORS=fresh).
	freshFactors bool
	// stock is the stock CLI's program, "" where there is none.
	stock string

	update = flag.Bool("update", false, "write the golden files again")
)

// atOnce is how many sides of comparisons run at once: the CLI spends its time in waits of seconds.
const atOnce = "12"

func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", atOnce); err != nil {
			panic(err)
		}
	}
	full = os.Getenv("E2E") == "full" && !testing.Short()
	freshFactors = os.Getenv("E2E_FACTORS") == "fresh"
	stock = findStock()
	code := m.Run()
	if err := suite.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// findStock looks for the stock CLI.
func findStock() string {
	name := os.Getenv("CONVOX")
	if name == "" {
		name = "convox"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CONVOX") != "" {
			fmt.Fprintf(os.Stderr, "CONVOX=%s: %v\n", name, err)
			os.Exit(1)
		}
		fmt.Println("No convox CLI on the PATH or in CONVOX: scenarios run through the tests' own client only.")
		return ""
	}
	return path
}
