package compose_test

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composeFile is docker-compose.yml, as far as its tests look at it.
type composeFile struct {
	Services map[string]service `yaml:"services"`
	Networks map[string]struct {
		Internal bool `yaml:"internal"`
		IPAM     struct {
			Config []struct {
				Subnet string `yaml:"subnet"`
			} `yaml:"config"`
		} `yaml:"ipam"`
	} `yaml:"networks"`
	Volumes map[string]any `yaml:"volumes"`
}

type service struct {
	Image string `yaml:"image"`
	Build *struct {
		Context    string            `yaml:"context"`
		Dockerfile string            `yaml:"dockerfile"`
		Args       map[string]string `yaml:"args"`
	} `yaml:"build"`
	User        string                                `yaml:"user"`
	ReadOnly    bool                                  `yaml:"read_only"`
	Privileged  bool                                  `yaml:"privileged"`
	CapDrop     []string                              `yaml:"cap_drop"`
	CapAdd      []string                              `yaml:"cap_add"`
	SecurityOpt []string                              `yaml:"security_opt"`
	Command     []string                              `yaml:"command"`
	Environment map[string]string                     `yaml:"environment"`
	Ports       []string                              `yaml:"ports"`
	Volumes     []string                              `yaml:"volumes"`
	Networks    networks                              `yaml:"networks"`
	NetworkMode string                                `yaml:"network_mode"`
	Profiles    []string                              `yaml:"profiles"`
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Healthcheck struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
}

// networks are those that a service is on, with its further names on each.
type networks map[string][]string

// UnmarshalYAML reads both forms: a list of names, and a mapping.
func (n *networks) UnmarshalYAML(node *yaml.Node) error {
	*n = networks{}
	var names []string
	if node.Decode(&names) == nil {
		for _, name := range names {
			(*n)[name] = nil
		}
		return nil
	}
	var described map[string]struct {
		Aliases []string `yaml:"aliases"`
	}
	if err := node.Decode(&described); err != nil {
		return err
	}
	for name, network := range described {
		(*n)[name] = network.Aliases
	}
	return nil
}

func parseCompose(t *testing.T) composeFile {
	t.Helper()
	return parseComposeFile(t, "docker-compose.yml")
}

func parseComposeFile(t *testing.T, name string) composeFile {
	t.Helper()
	var file composeFile
	if err := yaml.Unmarshal([]byte(read(t, name)), &file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestEveryServiceRunsWithTheLeastRights(t *testing.T) {
	// What a service may have beyond nothing at all, and why is written in docker-compose.yml.
	exceptions := map[string]struct {
		root bool
		caps []string
	}{
		"front":         {caps: []string{"NET_BIND_SERVICE"}},
		"front-volumes": {root: true, caps: []string{"CHOWN"}},
	}
	services := parseCompose(t).Services
	services["dex"] = parseComposeFile(t, "deploy/compose/trial.yml").Services["dex"]
	for name, service := range services {
		allowed := exceptions[name]
		if !service.ReadOnly {
			t.Errorf("%s: its root file system can be written to", name)
		}
		if service.Privileged {
			t.Errorf("%s: is privileged", name)
		}
		if !slices.Equal(service.CapDrop, []string{"ALL"}) || !slices.Equal(service.CapAdd, allowed.caps) {
			t.Errorf("%s: capabilities dropped %v, added %v; want all dropped, added %v", name, service.CapDrop, service.CapAdd, allowed.caps)
		}
		if !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: may gain privileges", name)
		}
		if uid, _, _ := strings.Cut(service.User, ":"); (uid == "" || uid == "0" || uid == "root") != allowed.root {
			t.Errorf("%s: runs as user %q", name, service.User)
		}
		if allowed.root && service.NetworkMode != "none" {
			t.Errorf("%s: runs as root and has a network", name)
		}
	}
}

func TestOnlyTheFrontIsReachableFromOutside(t *testing.T) {
	file := parseCompose(t)
	for name, service := range file.Services {
		if (len(service.Ports) > 0) != (name == "front") {
			t.Errorf("%s publishes %v", name, service.Ports)
		}
		for network := range service.Networks {
			if _, known := file.Networks[network]; !known {
				t.Errorf("%s is on a network %q that is not declared", name, network)
			}
		}
	}
	for _, network := range []string{"front", "console", "inside", "database"} {
		if !file.Networks[network].Internal {
			t.Errorf("network %s leads outside", network)
		}
	}
	if got := file.Services["postgres"].Networks; !maps.EqualFunc(got, networks{"database": nil}, slices.Equal) {
		t.Errorf("PostgreSQL is on %v", got)
	}
	for name, service := range parseComposeFile(t, "deploy/compose/trial.yml").Services {
		for _, port := range service.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("of a trial, %s publishes %s to more than this machine", name, port)
			}
		}
	}
}

func TestEachProcessHoldsItsOwnSecretsOnly(t *testing.T) {
	// Who may be given which variable of .env. Everybody else must not even name it.
	holders := map[string][]string{
		"RACK_TOKEN":     {"proxy"},
		"AUDIT_MAC_KEY":  {"admin", "proxy"},
		"APP_SECRET_KEY": {"admin"},

		"GOOGLE_CLIENT_SECRET": {"admin"},
		"POSTGRES_PASSWORD":    {"postgres"},
		"OWNER_DB_PASSWORD":    {"migrate", "postgres"},
		"ADMIN_DB_PASSWORD":    {"admin", "postgres"},
		"PROXY_DB_PASSWORD":    {"postgres", "proxy"},
	}
	services := parseCompose(t).Services
	for variable, want := range holders {
		var got []string
		for _, name := range slices.Sorted(maps.Keys(services)) {
			for _, value := range services[name].Environment {
				if strings.Contains(value, "${"+variable+"}") || strings.Contains(value, "${"+variable+":") {
					got = append(got, name)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is given to %v, want %v", variable, got, want)
		}
	}
}

func TestNothingStartsBeforeWhatItNeeds(t *testing.T) {
	services := parseCompose(t).Services
	for _, want := range []struct{ service, needs, condition string }{
		{"migrate", "postgres", "service_healthy"},
		{"admin", "migrate", "service_completed_successfully"},
		{"proxy", "postgres", "service_healthy"},
		{"proxy", "migrate", "service_completed_successfully"},
		{"front", "proxy", "service_healthy"},
		{"front", "admin", "service_healthy"},
		{"front", "front-volumes", "service_completed_successfully"},
	} {
		if got := services[want.service].DependsOn[want.needs].Condition; got != want.condition {
			t.Errorf("%s waits for %s until %q, want %q", want.service, want.needs, got, want.condition)
		}
		if want.condition == "service_healthy" && len(services[want.needs].Healthcheck.Test) == 0 {
			t.Errorf("%s waits for %s to be healthy, which has no health check", want.service, want.needs)
		}
	}
	if got := services["migrate"].Command; !slices.Equal(got, []string{"migrate"}) {
		t.Errorf("migrate runs %v", got)
	}
	if got := services["admin"].Command; !slices.Equal(got, []string{"serve"}) {
		t.Errorf("admin runs %v", got)
	}
}

// What is believed of others goes by the network that they come from, so that nobody else may be on it.
func TestEachProcessBelievesOnlyWhomItShould(t *testing.T) {
	file := parseCompose(t)
	for _, belief := range []struct{ service, variable, network, believed string }{
		{"proxy", "TRUSTED_PROXY_CIDRS", "front", "front"},
		{"admin", "TRUSTED_PROXY_CIDRS", "console", "front"},
		{"proxy", "ADMIN_CIDRS", "inside", "admin"},
	} {
		trusted := file.Services[belief.service].Environment[belief.variable]
		prefix, err := netip.ParsePrefix(trusted)
		if err != nil {
			t.Fatal(err)
		}
		if config := file.Networks[belief.network].IPAM.Config; len(config) != 1 || config[0].Subnet != prefix.String() {
			t.Errorf("the network %s is %v, and the %s of %s are %s", belief.network, config, belief.variable, belief.service, trusted)
		}
		for name, service := range file.Services {
			if _, on := service.Networks[belief.network]; on != (name == belief.service || name == belief.believed) {
				t.Errorf("%s is on the network %s: %t", name, belief.network, on)
			}
		}
	}
	// Admin and the proxy share the database's network too, from which admin would not be believed.
	alias, _, _ := strings.Cut(strings.TrimPrefix(file.Services["admin"].Environment["PROXY_URL"], "http://"), ":")
	if on := file.Services["proxy"].Networks; !slices.Contains(on["inside"], alias) || slices.Contains(on["database"], alias) {
		t.Errorf("admin asks for %s, and the proxy is called %v", alias, on)
	}
}

func TestEveryFileThatIsMountedExists(t *testing.T) {
	file := parseCompose(t)
	file.Services["dex"] = parseComposeFile(t, "deploy/compose/trial.yml").Services["dex"]
	for name, service := range file.Services {
		if service.Build != nil {
			if _, err := os.Stat(filepath.Join(root, service.Build.Context, service.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, volume := range service.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if !strings.HasPrefix(source, ".") {
				if _, known := file.Volumes[source]; !known {
					t.Errorf("%s mounts a volume %q that is not declared", name, source)
				}
				continue
			}
			info, err := os.Stat(filepath.Join(root, source))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if !strings.HasSuffix(volume, ":ro") {
				t.Errorf("%s may write to %s of the repository", name, source)
			}
			if strings.HasSuffix(source, ".sh") && info.Mode()&0o111 == 0 {
				t.Errorf("%s cannot be run", source)
			}
		}
	}
}

// reference is ${NAME}, with or without a default or a message. Comments of the file are not looked at.
var reference = regexp.MustCompile(`\$\{([A-Z][A-Z0-9_]*)(?::([?-])([^}]*))?\}`)

func TestEnvExampleNamesEveryVariableAndNoOther(t *testing.T) {
	required, optional := map[string]bool{}, map[string]string{}
	for line := range strings.Lines(read(t, "docker-compose.yml")) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, match := range reference.FindAllStringSubmatch(line, -1) {
			switch match[2] {
			case "?":
				required[match[1]] = true
			case "-":
				optional[match[1]] = match[3]
			}
		}
		for _, match := range reference.FindAllStringSubmatch(line, -1) {
			if _, ok := optional[match[1]]; match[2] == "" && !ok {
				required[match[1]] = true
			}
		}
	}
	// A trial asks for more, which .env.example offers.
	for line := range strings.Lines(read(t, "deploy/compose/trial.yml")) {
		for _, match := range reference.FindAllStringSubmatch(line, -1) {
			if !strings.HasPrefix(strings.TrimSpace(line), "#") && !required[match[1]] {
				optional[match[1]] = ""
				if match[2] == "-" {
					optional[match[1]] = match[3]
				}
			}
		}
	}

	var asked, offered []string
	offer := regexp.MustCompile(`^#([A-Z][A-Z0-9_]*)=(.*)$`)
	ask := regexp.MustCompile(`^([A-Z][A-Z0-9_]*)=(.*)$`)
	for line := range strings.Lines(read(t, ".env.example")) {
		line = strings.TrimRight(line, "\n")
		if match := ask.FindStringSubmatch(line); match != nil {
			asked = append(asked, match[1])
			if match[2] != "" {
				t.Errorf(".env.example gives %s a value; a secret that everybody knows is none", match[1])
			}
		}
		if match := offer.FindStringSubmatch(line); match != nil {
			offered = append(offered, match[1])
			if want := optional[match[1]]; match[2] != want {
				t.Errorf(".env.example says that %s is %q unless set, docker-compose.yml says %q", match[1], match[2], want)
			}
		}
	}
	slices.Sort(asked)
	slices.Sort(offered)
	if want := slices.Sorted(maps.Keys(required)); !slices.Equal(asked, want) {
		t.Errorf(".env.example asks for %v\ndocker-compose.yml needs %v", asked, want)
	}
	if want := slices.Sorted(maps.Keys(optional)); !slices.Equal(offered, want) {
		t.Errorf(".env.example offers %v\ndocker-compose.yml takes %v", offered, want)
	}
}

func TestComposeRunsTheImagesThatAreBuiltHere(t *testing.T) {
	for name, dockerfile := range map[string]string{"proxy": "Dockerfile.proxy", "admin": "Dockerfile.admin", "migrate": "Dockerfile.admin"} {
		service := parseCompose(t).Services[name]
		if service.Build == nil || service.Build.Dockerfile != dockerfile || service.Build.Context != "." {
			t.Errorf("%s is built by %+v, want %s", name, service.Build, dockerfile)
			continue
		}
		image := parseDockerfile(t, dockerfile)
		if image.user != service.User {
			t.Errorf("%s runs as %s here and as %s by its image", name, service.User, image.user)
		}
		if check := service.Healthcheck.Test; len(check) > 0 && !slices.Equal(check[1:], image.healthcheck) {
			t.Errorf("%s is asked for its health by %v here and by %v in its image", name, check[1:], image.healthcheck)
		}
		for argument := range service.Build.Args {
			if !slices.Contains(image.arguments, argument) {
				t.Errorf("%s is built with %s, which %s does not take", name, argument, dockerfile)
			}
		}
	}
}
