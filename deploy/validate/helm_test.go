package validate

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const chartPath = root + "/deploy/helm/rack-gateway"

// levels are the three sets of values that the guides tell people to begin with.
func levels(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob(chartPath + "/levels/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]any{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]any{}
		if err := yaml.UnmarshalStrict(text, &values); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		found[strings.TrimSuffix(filepath.Base(file), ".yaml")] = values
	}
	if names := slices.Sorted(maps.Keys(found)); !slices.Equal(names, []string{"maximum", "private", "standard"}) {
		t.Fatalf("the levels are %v", names)
	}
	return found
}

// render is `helm template`, by Helm's own library.
func render(t *testing.T, values map[string]any) (map[string]string, error) {
	t.Helper()
	chart, err := loader.Load(chartPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := chart.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := chartutil.ProcessDependencies(chart, values); err != nil {
		t.Fatal(err)
	}
	full, err := chartutil.ToRenderValues(chart, values, chartutil.ReleaseOptions{Name: "rack-gateway", Namespace: "rack-gateway", IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Engine{Strict: true}.Render(chart, full)
}

// cluster is everything that the chart makes, decoded strictly into the types that the API server has.
type cluster struct {
	deployments map[string]*apps.Deployment
	services    map[string]*core.Service
	accounts    map[string]*core.ServiceAccount
	configs     map[string]*core.ConfigMap
	jobs        map[string]*batch.Job
	ingresses   map[string]*networking.Ingress
	policies    map[string]*networking.NetworkPolicy
	budgets     map[string]*policy.PodDisruptionBudget
	scalers     map[string]*autoscaling.HorizontalPodAutoscaler
	monitors    map[string]*monitoring.ServiceMonitor
	rules       map[string]*monitoring.PrometheusRule
}

func add[T any, P interface {
	*T
	meta.Object
}](t *testing.T, into *map[string]P, text []byte) {
	t.Helper()
	object := P(new(T))
	if err := yaml.UnmarshalStrict(text, object); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if *into == nil {
		*into = map[string]P{}
	}
	if object.GetName() == "" || (*into)[object.GetName()] != nil {
		t.Errorf("an object without a name, or one twice: %T %q", object, object.GetName())
	}
	(*into)[object.GetName()] = object
}

func decode(t *testing.T, rendered map[string]string) *cluster {
	t.Helper()
	c := &cluster{}
	for name, text := range rendered {
		if strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		for document := range strings.SplitSeq(text, "\n---") {
			if strings.TrimSpace(strings.TrimPrefix(document, "---")) == "" {
				continue
			}
			var kind meta.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, document)
			}
			if kind.Kind == "" {
				continue // comments alone
			}
			raw := []byte(document)
			switch kind.APIVersion + " " + kind.Kind {
			case "apps/v1 Deployment":
				add(t, &c.deployments, raw)
			case "v1 Service":
				add(t, &c.services, raw)
			case "v1 ServiceAccount":
				add(t, &c.accounts, raw)
			case "v1 ConfigMap":
				add(t, &c.configs, raw)
			case "batch/v1 Job":
				add(t, &c.jobs, raw)
			case "networking.k8s.io/v1 Ingress":
				add(t, &c.ingresses, raw)
			case "networking.k8s.io/v1 NetworkPolicy":
				add(t, &c.policies, raw)
			case "policy/v1 PodDisruptionBudget":
				add(t, &c.budgets, raw)
			case "autoscaling/v2 HorizontalPodAutoscaler":
				add(t, &c.scalers, raw)
			case "monitoring.coreos.com/v1 ServiceMonitor":
				add(t, &c.monitors, raw)
			case "monitoring.coreos.com/v1 PrometheusRule":
				add(t, &c.rules, raw)
			default:
				t.Errorf("%s makes a %s %s, which this test does not know", name, kind.APIVersion, kind.Kind)
			}
		}
	}
	return c
}

// each runs a test over every level.
func each(t *testing.T, test func(t *testing.T, level string, values map[string]any, c *cluster)) {
	for level, values := range levels(t) {
		t.Run(level, func(t *testing.T) {
			rendered, err := render(t, values)
			if err != nil {
				t.Fatal(err)
			}
			test(t, level, values, decode(t, rendered))
		})
	}
}

// pods are the templates of everything that runs.
func (c *cluster) pods() map[string]core.PodTemplateSpec {
	found := map[string]core.PodTemplateSpec{}
	for name, deployment := range c.deployments {
		found[name] = deployment.Spec.Template
	}
	for name, job := range c.jobs {
		found[name] = job.Spec.Template
	}
	return found
}

func TestEveryPodRunsWithTheLeastRights(t *testing.T) {
	each(t, func(t *testing.T, _ string, _ map[string]any, c *cluster) {
		pods := c.pods()
		if len(pods) != 3 {
			t.Fatalf("there run %v", slices.Sorted(maps.Keys(pods)))
		}
		for name, pod := range pods {
			s := pod.Spec.SecurityContext
			if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser != 65532 || s.SeccompProfile == nil || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: %+v", name, s)
			}
			if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
				t.Errorf("%s is given a token of the cluster's", name)
			}
			if pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC {
				t.Errorf("%s shares something with its host", name)
			}
			for _, container := range pod.Spec.Containers {
				cs := container.SecurityContext
				if cs == nil || cs.ReadOnlyRootFilesystem == nil || !*cs.ReadOnlyRootFilesystem || cs.AllowPrivilegeEscalation == nil || *cs.AllowPrivilegeEscalation ||
					cs.Capabilities == nil || !slices.Equal(cs.Capabilities.Drop, []core.Capability{"ALL"}) || len(cs.Capabilities.Add) > 0 {
					t.Errorf("%s/%s: %+v", name, container.Name, cs)
				}
				memory := container.Resources.Limits.Memory()
				if memory.IsZero() || memory.Value() > 256<<20 || container.Resources.Requests.Cpu().IsZero() {
					t.Errorf("%s/%s may take %v", name, container.Name, container.Resources)
				}
				if strings.Contains(container.Image, ":latest") || !strings.Contains(container.Image, ":") {
					t.Errorf("%s/%s runs %s", name, container.Name, container.Image)
				}
			}
			for _, volume := range pod.Spec.Volumes {
				if volume.Secret == nil {
					t.Errorf("%s mounts %+v", name, volume)
				} else if mode := volume.Secret.DefaultMode; mode == nil || *mode&0o007 != 0 {
					t.Errorf("%s: everybody reads the secrets", name)
				}
			}
		}
	})
}

func environ(container core.Container) []string {
	var list []string
	for _, v := range container.Env {
		if v.Name != "GOMEMLIMIT" {
			list = append(list, v.Name+"="+v.Value)
		}
	}
	return list
}

func TestEachProcessTakesWhatTheChartGivesIt(t *testing.T) {
	each(t, func(t *testing.T, level string, _ map[string]any, c *cluster) {
		for name, pod := range c.pods() {
			container := pod.Spec.Containers[0]
			takes(t, level+" "+name, container.Name, environ(container))
			for _, v := range container.Env {
				if v.ValueFrom != nil {
					t.Errorf("%s: %s comes from elsewhere", name, v.Name)
				}
			}
		}
	})
}

func TestEachProcessHoldsItsOwnSecretsOnly(t *testing.T) {
	holders := map[string][]string{
		"RACK_TOKEN": {"rack-gateway-proxy"}, "APP_SECRET_KEY": {"rack-gateway-admin"}, "GOOGLE_CLIENT_SECRET": {"rack-gateway-admin"},
		"AUDIT_MAC_KEY": {"rack-gateway-admin", "rack-gateway-proxy"}, "ADMIN_DATABASE_URL": {"rack-gateway-migrate"},
		"DATABASE_URL": {"rack-gateway-admin", "rack-gateway-proxy"},
	}
	each(t, func(t *testing.T, _ string, _ map[string]any, c *cluster) {
		got := map[string][]string{}
		for name, pod := range c.pods() {
			mounted := map[string]bool{}
			for _, volume := range pod.Spec.Volumes {
				for _, item := range volume.Secret.Items {
					mounted[item.Path] = true
					got[item.Key] = append(got[item.Key], name)
				}
				if len(volume.Secret.Items) == 0 {
					t.Errorf("%s mounts all of the secret %s", name, volume.Secret.SecretName)
				}
			}
			for _, v := range pod.Spec.Containers[0].Env {
				if file, ok := strings.CutPrefix(v.Value, "/run/secrets/rackgateway/"); ok && !mounted[file] {
					t.Errorf("%s: %s names a file that is not mounted", name, v.Name)
				}
			}
		}
		for key, names := range got {
			slices.Sort(names)
			if !slices.Equal(names, holders[key]) {
				t.Errorf("%s is given to %v, want %v", key, names, holders[key])
			}
		}
		if len(got) != len(holders) {
			t.Errorf("given are %v", slices.Sorted(maps.Keys(got)))
		}
	})
}

// process says who answers a path by the rules of Kubernetes: of the prefixes that fit, whole segments at a time, the
// longest.
func process(t *testing.T, ingress *networking.Ingress, path string) string {
	t.Helper()
	segments := func(s string) []string {
		return slices.DeleteFunc(strings.Split(s, "/"), func(part string) bool { return part == "" })
	}
	best, service := -1, "nobody"
	for _, rule := range ingress.Spec.Rules[0].HTTP.Paths {
		if rule.PathType == nil || *rule.PathType != networking.PathTypePrefix {
			t.Fatalf("%s is a path of a type that this test cannot judge", rule.Path)
		}
		prefix, asked := segments(rule.Path), segments(path)
		if len(prefix) <= len(asked) && slices.Equal(prefix, asked[:len(prefix)]) && len(prefix) > best {
			best, service = len(prefix), rule.Backend.Service.Name
		}
	}
	return strings.TrimPrefix(service, ingress.Name+"-")
}

func TestTheIngressSendsEachPathToItsProcess(t *testing.T) {
	each(t, func(t *testing.T, level string, _ map[string]any, c *cluster) {
		if len(c.ingresses) != 1 || len(c.ingresses["rack-gateway"].Spec.Rules) != 1 {
			t.Fatal("there is not one ingress with one rule")
		}
		ingress := c.ingresses["rack-gateway"]
		for path, want := range pathRules {
			if got := process(t, ingress, path); got != want {
				t.Errorf("%s is answered by %s, want %s", path, got, want)
			}
		}
		for _, rule := range ingress.Spec.Rules[0].HTTP.Paths {
			service := c.services[rule.Backend.Service.Name]
			if service == nil || !slices.ContainsFunc(service.Spec.Ports, func(p core.ServicePort) bool { return p.Name == rule.Backend.Service.Port.Name }) {
				t.Errorf("%s leads to a service that is not there", rule.Path)
			}
		}
		if len(ingress.Spec.TLS) == 0 {
			t.Error("it is reached without TLS")
		}
		switch class := *ingress.Spec.IngressClassName; {
		case (level == "standard") != (class == "nginx"):
			t.Errorf("it is reached by %s", class)
		case class == "nginx":
			for name, want := range map[string]string{"proxy-body-size": "0", "proxy-buffering": "off", "proxy-request-buffering": "off", "proxy-next-upstream": "off"} {
				if got := ingress.Annotations["nginx.ingress.kubernetes.io/"+name]; got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		}
	})
}

func selects(selector *meta.LabelSelector, labels map[string]string) bool {
	s, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labelSet(labels))
}

type labelSet map[string]string

func (l labelSet) Has(label string) bool              { _, ok := l[label]; return ok }
func (l labelSet) Get(label string) string            { return l[label] }
func (l labelSet) Lookup(label string) (string, bool) { value, ok := l[label]; return value, ok }

func TestEverythingFindsItsPods(t *testing.T) {
	each(t, func(t *testing.T, _ string, _ map[string]any, c *cluster) {
		for name, deployment := range c.deployments {
			labels := deployment.Spec.Template.Labels
			if !selects(deployment.Spec.Selector, labels) {
				t.Errorf("%s does not select its own pods", name)
			}
			for other, d := range c.deployments {
				if other != name && selects(d.Spec.Selector, labels) {
					t.Errorf("%s selects the pods of %s", other, name)
				}
			}
			if service := c.services[name]; service == nil || !selects(&meta.LabelSelector{MatchLabels: service.Spec.Selector}, labels) {
				t.Errorf("no service finds %s", name)
			} else {
				for _, port := range service.Spec.Ports {
					if !slices.ContainsFunc(deployment.Spec.Template.Spec.Containers[0].Ports, func(p core.ContainerPort) bool { return p.Name == port.TargetPort.StrVal }) {
						t.Errorf("%s has no port %s", name, port.TargetPort.StrVal)
					}
				}
			}
			if budget := c.budgets[name]; budget == nil || !selects(budget.Spec.Selector, labels) {
				t.Errorf("nothing keeps one of %s at least", name)
			}
			if account := deployment.Spec.Template.Spec.ServiceAccountName; c.accounts[account] == nil {
				t.Errorf("%s runs as %s, which is not made", name, account)
			}
			for _, spread := range deployment.Spec.Template.Spec.TopologySpreadConstraints {
				if !selects(spread.LabelSelector, labels) {
					t.Errorf("%s is spread by other labels than its own", name)
				}
			}
			container := deployment.Spec.Template.Spec.Containers[0]
			if container.ReadinessProbe.HTTPGet.Path != "/api/v1/health/ready" || container.LivenessProbe.HTTPGet.Path != "/api/v1/health" || container.ReadinessProbe.PeriodSeconds > 2 {
				t.Errorf("%s is asked for its health otherwise than it tells it", name)
			}
			if s := deployment.Spec.Strategy.RollingUpdate; s == nil || s.MaxUnavailable.IntVal != 0 {
				t.Errorf("%s has less than all of them while it is replaced", name)
			}
		}
		if scaler := c.scalers["rack-gateway-proxy"]; scaler == nil || c.deployments[scaler.Spec.ScaleTargetRef.Name] == nil || *scaler.Spec.MinReplicas < 2 || c.deployments["rack-gateway-proxy"].Spec.Replicas != nil {
			t.Error("the proxies are not scaled, or by two at once")
		}
		if replicas := c.deployments["rack-gateway-admin"].Spec.Replicas; replicas == nil || *replicas < 2 {
			t.Error("there are not two admins")
		}
	})
}

// The drain must be over before the process is killed.
func TestProcessesAreGivenTimeToEnd(t *testing.T) {
	each(t, func(t *testing.T, _ string, _ map[string]any, c *cluster) {
		for name, deployment := range c.deployments {
			drain := ""
			for _, v := range deployment.Spec.Template.Spec.Containers[0].Env {
				if v.Name == "DRAIN_TIMEOUT" {
					drain = v.Value
				}
			}
			var seconds int64
			if _, err := fmt.Sscanf(drain, "%ds", &seconds); err != nil {
				t.Fatalf("%s drains for %q", name, drain)
			}
			if grace := deployment.Spec.Template.Spec.TerminationGracePeriodSeconds; grace == nil || *grace < seconds+30 {
				t.Errorf("%s drains for %s and is killed after %d seconds", name, drain, *grace)
			}
		}
	})
}

func TestNobodyReachesMoreThanTheyNeed(t *testing.T) {
	each(t, func(t *testing.T, _ string, _ map[string]any, c *cluster) {
		for name, pod := range c.pods() {
			var mine []*networking.NetworkPolicy
			for _, p := range c.policies {
				if selects(&p.Spec.PodSelector, pod.Labels) {
					mine = append(mine, p)
				}
			}
			if len(mine) != 1 || len(mine[0].Spec.PolicyTypes) != 2 {
				t.Errorf("%s is under %d policies", name, len(mine))
				continue
			}
			for _, rule := range mine[0].Spec.Egress {
				if len(rule.To) == 0 || len(rule.Ports) == 0 {
					t.Errorf("%s may reach everybody, or every port", name)
				}
				for _, to := range rule.To {
					if to.IPBlock == nil {
						continue
					}
					rack := false
					for _, block := range c.policies["rack-gateway-proxy"].Spec.Egress[2].To {
						rack = rack || block.IPBlock != nil && block.IPBlock.CIDR == to.IPBlock.CIDR
					}
					if rack && name != "rack-gateway-proxy" {
						t.Errorf("%s may reach the rack", name)
					}
					if to.IPBlock.CIDR == "0.0.0.0/0" && (name != "rack-gateway-admin" || len(to.IPBlock.Except) == 0) {
						t.Errorf("%s may reach the whole internet, the rack included", name)
					}
				}
			}
			for _, rule := range mine[0].Spec.Ingress {
				if len(rule.From) == 0 || len(rule.Ports) == 0 {
					t.Errorf("everybody may reach %s", name)
				}
			}
		}
	})
}

func TestTheMonitorFindsBothProcesses(t *testing.T) {
	each(t, func(t *testing.T, level string, _ map[string]any, c *cluster) {
		monitor := c.monitors["rack-gateway"]
		if monitor == nil || c.rules["rack-gateway"] == nil || len(c.rules["rack-gateway"].Spec.Groups) == 0 {
			t.Fatal("nothing watches it")
		}
		for name, service := range c.services {
			if !selects(&monitor.Spec.Selector, service.Labels) || !slices.ContainsFunc(service.Spec.Ports, func(p core.ServicePort) bool { return p.Name == monitor.Spec.Endpoints[0].Port }) {
				t.Errorf("nobody asks %s for its metrics", name)
			}
		}
		if level == "maximum" && len(c.configs["rack-gateway-dashboard"].Data["rack-gateway.json"]) < 1000 {
			t.Error("there is no dashboard")
		}
	})
}

func TestWhatIsMissingIsSaidAllAtOnce(t *testing.T) {
	_, err := render(t, map[string]any{})
	if err == nil {
		t.Fatal("it renders without anything")
	}
	for _, name := range []string{"domain", "rack.host", "rack.organization", "rack.alias", "signIn.clientId", "signIn.allowedDomain", "network.adminCidrs", "network.trustedProxyCidrs", "networkPolicies.database.cidrs", "networkPolicies.rack.cidrs"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("it does not ask for %s: %v", name, err)
		}
	}
}

func TestEverySwitchOfTheChartRenders(t *testing.T) {
	for what, change := range map[string]map[string]any{
		"alb":           {"ingress": map[string]any{"controller": "alb", "className": "alb"}},
		"no ingress":    {"ingress": map[string]any{"enabled": false}},
		"no policies":   {"networkPolicies": map[string]any{"enabled": false}},
		"no migration":  {"migrate": map[string]any{"enabled": false}},
		"fixed number":  {"proxy": map[string]any{"autoscaling": map[string]any{"enabled": false}}},
		"next password": {"secrets": map[string]any{"proxy": map[string]any{"keys": []any{"DATABASE_URL", "AUDIT_MAC_KEY", "RACK_TOKEN", "RACK_TOKEN_NEXT"}}}},
	} {
		values := chartutil.CoalesceTables(change, levels(t)["standard"])
		rendered, err := render(t, values)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		decode(t, rendered)
	}
	values := levels(t)["standard"]
	values["ingress"].(map[string]any)["controller"] = "traefik"
	if _, err := render(t, values); err == nil || !strings.Contains(err.Error(), "one of nginx, alb and tailscale") {
		t.Errorf("an unknown controller: %v", err)
	}
}

// What differs between the levels is what the guide says differs.
func TestTheLevelsRise(t *testing.T) {
	all := map[string]*cluster{}
	each(t, func(_ *testing.T, level string, _ map[string]any, c *cluster) { all[level] = c })
	setting := func(level, name string) string {
		for _, v := range all[level].deployments["rack-gateway-proxy"].Spec.Template.Spec.Containers[0].Env {
			if v.Name == "RGW_SETTING_"+name {
				return v.Value
			}
		}
		return ""
	}
	if setting("maximum", "DEPLOY_APPROVALS") != "true" || setting("standard", "DEPLOY_APPROVALS") != "" {
		t.Error("deployments are not approved at the maximum level")
	}
	for level := range all {
		if setting(level, "ALLOW_DESTRUCTIVE") != "false" {
			t.Errorf("%s: deletions are not refused", level)
		}
	}
	if !strings.Contains(all["maximum"].deployments["rack-gateway-proxy"].Spec.Template.Spec.Containers[0].Image, "@sha256:") {
		t.Error("the maximum level runs images by tag")
	}
	if bytes.Equal([]byte(*all["standard"].ingresses["rack-gateway"].Spec.IngressClassName), []byte(*all["private"].ingresses["rack-gateway"].Spec.IngressClassName)) {
		t.Error("private is reached as standard is")
	}
}
