package e2e

import (
	"slices"
)

// scenarios are all of them.
func scenarios() []scenario {
	return slices.Concat(readScenarios())
}

// readScenarios look and change nothing.
func readScenarios() []scenario {
	return []scenario{
		{name: "looking at apps", quick: true, run: func(s *side) {
			s.run("apps")
			s.run("apps", "info")
			s.run("apps", "info", "-a", "nothere")
			s.run("apps", "params")
			s.run("ps")
			s.run("ps", "info", s.pid("web"))
			s.run("ps", "info", "nothere")
			s.run("services")
			s.run("scale")
			s.run("balancers")
			s.run("builds")
			s.run("releases")
			s.run("env")
			s.run("env", "get", "API_KEY")
			s.run("env", "get", "NOTHERE")
			s.run("configs")
			s.run("config", "get", "settings")
			s.run("config", "get", "nothere")
			s.run("resources")
			s.run("resources", "info", "database")
			s.run("resources", "url", "database")
			s.run("resources", "url", "nothere")
		}},
		{name: "looking at the rack", quick: true, run: func(s *side) {
			s.run("rack")
			s.run("rack", "ps")
			s.run("rack", "ps", "-a")
			s.run("rack", "params")
			s.run("rack", "releases")
			s.run("rack", "resources")
			s.run("rack", "resources", "info", "audit")
			s.run("rack", "resources", "types")
			s.run("instances")
			s.run("registries")
			s.run("certs")
			s.run("certs", "--generated")
			s.run("version")
			s.run("api", "get", "/apps")
			s.run("api", "get", "/system/capacity")
		}},
	}
}
