// The JSON shapes of a rack's answers. Field order is the rack's own, because answers are compared byte for
// byte. A nil slice is null where the rack answers null.

package wire

import "time"

// TimeFormat is how times travel in forms and query strings.
const TimeFormat = "20060102.150405.000000000"

// App is an application. Status is created, running, updating, rollback or unknown.
type App struct {
	Generation string            `json:"generation,omitempty"`
	Locked     bool              `json:"locked"`
	Name       string            `json:"name"`
	Release    string            `json:"release"`
	Router     string            `json:"router"`
	Status     string            `json:"status"`
	Budget     *Budget           `json:"budget,omitempty"`
	Parameters map[string]string `json:"parameters"`
}

// AppConfig is a named file of an app. Value is clear text in answers and base64 in requests.
type AppConfig struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Balancer is a custom load balancer of an app.
type Balancer struct {
	Name     string         `json:"name"`
	Endpoint string         `json:"endpoint"`
	Ports    []BalancerPort `json:"ports"`
	Service  string         `json:"service"`
}

// BalancerPort maps Source, where clients connect, to Target in the container.
type BalancerPort struct {
	Protocol string `json:"protocol"`
	Source   int    `json:"source"`
	Target   int    `json:"target"`
}

// Build is a build of an app. Status is created, running, complete or failed.
type Build struct {
	ID          string    `json:"id"`
	App         string    `json:"app"`
	Description string    `json:"description"`
	Entrypoint  string    `json:"entrypoint"`
	GitSha      string    `json:"git-sha"`
	Logs        string    `json:"logs"`
	Manifest    string    `json:"manifest"`
	Process     string    `json:"process"`
	Release     string    `json:"release"`
	Reason      string    `json:"reason"`
	Repository  string    `json:"repository"`
	Status      string    `json:"status"`
	Started     time.Time `json:"started"`
	Ended       time.Time `json:"ended"`
}

// Capacity is what the rack's machines offer and its processes ask for, in milli-CPU and MiB.
type Capacity struct {
	ClusterCPU    int64 `json:"cluster-cpu"`
	ClusterGPU    int64 `json:"cluster-gpu"`
	ClusterMemory int64 `json:"cluster-memory"`
	ProcessCount  int64 `json:"process-count"`
	ProcessCPU    int64 `json:"process-cpu"`
	ProcessGPU    int64 `json:"process-gpu"`
	ProcessMemory int64 `json:"process-memory"`
}

// Certificate never carries its private key.
type Certificate struct {
	ID         string    `json:"id"`
	Domain     string    `json:"domain"`
	Domains    []string  `json:"domains"`
	Expiration time.Time `json:"expiration"`
	Status     string    `json:"status"`
}

// Instance is a machine of the rack.
type Instance struct {
	Agent             bool      `json:"agent"`
	CPU               float64   `json:"cpu"`
	CPUCapacity       float64   `json:"cpu-capacity"`
	CPUAllocatable    float64   `json:"cpu-allocatable"`
	GPUCapacity       int       `json:"gpu-capacity"`
	GPUAllocatable    int       `json:"gpu-allocatable"`
	ID                string    `json:"id"`
	Memory            float64   `json:"memory"`
	MemoryCapacity    float64   `json:"memory-capacity"`
	MemoryAllocatable float64   `json:"memory-allocatable"`
	PrivateIP         string    `json:"private-ip"`
	Processes         int       `json:"processes"`
	PublicIP          string    `json:"public-ip"`
	Status            string    `json:"status"`
	Started           time.Time `json:"started"`
}

// KeyPair is the answer of an instance key roll: it holds the new private key.
type KeyPair struct {
	Name       *string `json:"name"`
	PrivateKey *string `json:"private-key"`
}

// LetsEncrypt configures certificates by DNS challenge.
type LetsEncrypt struct {
	Role    string      `json:"role"`
	Solvers []DNSSolver `json:"solvers"`
}

// DNSSolver is one DNS account of LetsEncrypt.
type DNSSolver struct {
	ID       int      `json:"id"`
	DNSZones []string `json:"dns-zones"`
	Route53  *Route53 `json:"route53"`
}

// Route53 is how to reach a zone at AWS.
type Route53 struct {
	HostedZoneID *string `json:"hosted-zone-id"`
	Region       *string `json:"region"`
	Role         *string `json:"role"`
}

// ManifestService is a service as the manifest of the current release describes it.
type ManifestService struct {
	Name        string         `json:"name"`
	Environment []string       `json:"environment,omitempty"`
	Scale       *ManifestScale `json:"scale,omitempty"`
}

// ManifestScale is the range of a service's process count.
type ManifestScale struct {
	Min *int `json:"min,omitempty"`
	Max *int `json:"max,omitempty"`
}

// Metric is a named series.
type Metric struct {
	Name   string        `json:"name"`
	Values []MetricValue `json:"values"`
}

// MetricValue is one step of a series.
type MetricValue struct {
	Average float64   `json:"avg"`
	Count   float64   `json:"count"`
	Maximum float64   `json:"max"`
	Minimum float64   `json:"min"`
	Sum     float64   `json:"sum"`
	Time    time.Time `json:"time"`
}

// ServiceMetrics are the series of one service.
type ServiceMetrics struct {
	Name    string   `json:"name"`
	Metrics []Metric `json:"metrics"`
}

// Object is where an upload went. It is the one shape whose field is capitalised.
type Object struct {
	Url string //nolint:staticcheck // the rack's own spelling
}

// Process is a running (or pending) container. Name and Service are the service's name; build containers
// have the service name build.
type Process struct {
	ID       string    `json:"id"`
	App      string    `json:"app"`
	Command  string    `json:"command"`
	CPU      float64   `json:"cpu"`
	GPU      int       `json:"gpu"`
	Host     string    `json:"host"`
	Image    string    `json:"image"`
	Instance string    `json:"instance"`
	Memory   float64   `json:"memory"`
	Name     string    `json:"name"`
	Ports    []string  `json:"ports"`
	Release  string    `json:"release"`
	Started  time.Time `json:"started"`
	Status   string    `json:"status"`
	Service  string    `json:"service,omitempty"`
}

// Registry is an image registry with its clear-text password.
type Registry struct {
	Server   string `json:"server"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// Release is a build with an environment. Env is KEY=VALUE lines in clear text.
type Release struct {
	ID          string    `json:"id"`
	App         string    `json:"app"`
	Build       string    `json:"build"`
	Env         string    `json:"env"`
	Manifest    string    `json:"manifest"`
	Description string    `json:"description"`
	Created     time.Time `json:"created"`
}

// Resource is a database or the like of an app, or a resource of the rack itself. URL holds a password.
type Resource struct {
	Name       string            `json:"name"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Status     string            `json:"status,omitempty"`
	Type       string            `json:"type"`
	URL        string            `json:"url"`
	Apps       []App             `json:"apps,omitempty"`
}

// ResourceType is a kind of rack resource that can be created.
type ResourceType struct {
	Name       string              `json:"name"`
	Parameters []ResourceParameter `json:"parameters"`
}

// ResourceParameter is an option of a ResourceType.
type ResourceParameter struct {
	Default     string `json:"default"`
	Description string `json:"description"`
	Name        string `json:"name"`
}

// Service is a service of the current release. CPU is in milli-CPU, Memory in MiB.
type Service struct {
	Count                  int           `json:"count"`
	CPU                    int           `json:"cpu"`
	Domain                 string        `json:"domain"`
	GPU                    int           `json:"gpu"`
	GPUVendor              string        `json:"gpu-vendor"`
	Memory                 int           `json:"memory"`
	Name                   string        `json:"name"`
	Nlb                    []NlbPort     `json:"nlb"`
	Ports                  []ServicePort `json:"ports"`
	Min                    *int          `json:"min,omitempty"`
	Max                    *int          `json:"max,omitempty"`
	ColdStart              *bool         `json:"cold-start,omitempty"`
	Autoscale              *Autoscale    `json:"autoscale,omitempty"`
	ScaleOverrideActive    *bool         `json:"scale-override-active,omitempty"`
	TriggersOverrideActive *bool         `json:"triggers-override-active,omitempty"`
}

// NlbPort is a network balancer's port; racks of version 3 have none.
type NlbPort struct {
	ContainerPort int    `json:"container-port"`
	Port          int    `json:"port"`
	Protocol      string `json:"protocol"`
	Scheme        string `json:"scheme"`
	Certificate   string `json:"certificate"`
}

// ServicePort is a port of a service; Balancer is 0 for an internal one.
type ServicePort struct {
	Balancer    int    `json:"balancer"`
	Certificate string `json:"certificate"`
	Container   int    `json:"container"`
}

// Autoscale is a service's autoscaling, thresholds in percent.
type Autoscale struct {
	Enabled        bool `json:"enabled"`
	CPUThreshold   *int `json:"cpu-threshold,omitempty"`
	MemThreshold   *int `json:"mem-threshold,omitempty"`
	GPUThreshold   *int `json:"gpu-threshold,omitempty"`
	QueueThreshold *int `json:"queue-threshold,omitempty"`
}

// Triggers is what enables a service's autoscaling at run time.
type Triggers struct {
	Min      int       `json:"min"`
	Max      int       `json:"max"`
	Triggers []Trigger `json:"triggers"`
}

// Trigger is one threshold: cpu, memory, gpuUtilization or queueDepth.
type Trigger struct {
	Type      string  `json:"type"`
	Threshold float64 `json:"threshold"`
}

// System is the rack itself.
type System struct {
	Count          int               `json:"count"`
	Domain         string            `json:"domain"`
	Name           string            `json:"name"`
	Outputs        map[string]string `json:"outputs,omitempty"`
	Parameters     map[string]string `json:"parameters,omitempty"`
	Provider       string            `json:"provider"`
	RackDomain     string            `json:"rack-domain"`
	RouterInternal string            `json:"router-internal"`
	Region         string            `json:"region"`
	Status         string            `json:"status"`
	Type           string            `json:"type"`
	Version        string            `json:"version"`
}

// Token is a freshly minted rack token.
type Token struct {
	Token string `json:"token"`
}

// Budget is an app's spending cap in US dollars a month.
type Budget struct {
	MonthlyCapUSD         float64 `json:"monthly-cap-usd"`
	AlertThresholdPercent float64 `json:"alert-threshold-percent,omitempty"`
	AtCapAction           string  `json:"at-cap-action,omitempty"`
	PricingAdjustment     float64 `json:"pricing-adjustment,omitempty"`
	LastCapMutationBy     string  `json:"last-cap-mutation-by,omitempty"`
}

// BudgetState is what has been spent of a Budget.
type BudgetState struct {
	MonthStart            time.Time `json:"month-start"`
	CurrentMonthSpendUSD  float64   `json:"current-month-spend-usd"`
	CurrentMonthSpendAsOf time.Time `json:"current-month-spend-as-of"`
	AlertFiredAtThreshold time.Time `json:"alert-fired-at-threshold,omitempty"` //nolint:modernize // the rack writes zero times out
	AlertFiredAtCap       time.Time `json:"alert-fired-at-cap,omitempty"`       //nolint:modernize // the same
	CircuitBreakerTripped bool      `json:"circuit-breaker-tripped,omitempty"`
	CircuitBreakerAckBy   string    `json:"circuit-breaker-ack-by,omitempty"`
	CircuitBreakerAckAt   time.Time `json:"circuit-breaker-ack-at,omitempty"` //nolint:modernize // the same
	WarningCount          int       `json:"warning-count,omitempty"`
}

// BudgetAnswer is the answer of GET budget; both are null when no budget is set.
type BudgetAnswer struct {
	Config *Budget      `json:"config"`
	State  *BudgetState `json:"state"`
}

// BudgetSimulation is what an automatic shutdown would do.
type BudgetSimulation struct {
	App                          string                `json:"app"`
	AtCapAction                  string                `json:"at-cap-action"`
	WebhookURL                   string                `json:"webhook-url"`
	NotifyBeforeMinutes          int                   `json:"notify-before-minutes"`
	ShutdownGracePeriod          string                `json:"shutdown-grace-period"`
	ShutdownOrder                string                `json:"shutdown-order"`
	RecoveryMode                 string                `json:"recovery-mode"`
	Eligibility                  []ShutdownEligibility `json:"eligibility"`
	WouldShutDownServices        []string              `json:"would-shut-down-services"`
	WouldShutDownCount           int                   `json:"would-shut-down-count"`
	EstimatedCostSavedUSDPerHour float64               `json:"estimated-cost-saved-usd-per-hour"`
	SimulatedAt                  time.Time             `json:"simulated-at"`
}

// ShutdownEligibility says whether one service would be shut down.
type ShutdownEligibility struct {
	Service        string  `json:"service"`
	Eligible       bool    `json:"eligible"`
	Reason         string  `json:"reason,omitempty"`
	Replicas       int     `json:"replicas"`
	CostUSDPerHour float64 `json:"cost-usd-per-hour"`
}

// DismissRecovery is the answer of dismissing a budget's recovery banner.
type DismissRecovery struct {
	App    string `json:"app"`
	Status string `json:"status"`
}

// Cost is what an app has cost this month.
type Cost struct {
	App                 string     `json:"app"`
	MonthStart          time.Time  `json:"month-start"`
	AsOf                time.Time  `json:"as-of"`
	SpendUSD            float64    `json:"spend-usd"`
	Breakdown           []CostLine `json:"breakdown"`
	PricingSource       string     `json:"pricing-source"`
	PricingTableVersion string     `json:"pricing-table-version"`
	PricingAdjustment   float64    `json:"pricing-adjustment"`
	TrackingEnabled     bool       `json:"tracking-enabled,omitempty"`
}

// CostLine is one service's share of a Cost.
type CostLine struct {
	Service      string  `json:"service"`
	GPUHours     float64 `json:"gpu-hours"`
	CPUHours     float64 `json:"cpu-hours"`
	MemGBHours   float64 `json:"mem-gb-hours"`
	InstanceType string  `json:"instance-type,omitempty"`
	SpendUSD     float64 `json:"spend-usd"`
}

// Diagnosis is the state of an app's processes with their last log lines.
type Diagnosis struct {
	Namespace string             `json:"namespace"`
	Rack      string             `json:"rack"`
	App       string             `json:"app"`
	Timestamp time.Time          `json:"timestamp"`
	Overview  *DiagnosisOverview `json:"overview,omitempty"`
	Pods      []DiagnosisPod     `json:"pods,omitempty"`
	Summary   *DiagnosisSummary  `json:"summary,omitempty"`
}

// DiagnosisOverview is a Diagnosis by service.
type DiagnosisOverview struct {
	Services []DiagnosisService `json:"services"`
}

// DiagnosisService is one service of a DiagnosisOverview.
type DiagnosisService struct {
	Name            string `json:"name"`
	DesiredReplicas int    `json:"desiredReplicas"`
	ReadyReplicas   int    `json:"readyReplicas"`
	UpdatedReplicas int    `json:"updatedReplicas"`
	Status          string `json:"status"`
}

// DiagnosisPod is one process of a Diagnosis.
type DiagnosisPod struct {
	Name           string `json:"name"`
	Service        string `json:"service"`
	Phase          string `json:"phase"`
	Ready          string `json:"ready"`
	AgeSeconds     int    `json:"ageSeconds"`
	Restarts       int    `json:"restarts"`
	Classification string `json:"classification"`
	Logs           string `json:"logs,omitempty"`
}

// DiagnosisSummary counts the pods of a Diagnosis.
type DiagnosisSummary struct {
	Total     int `json:"total"`
	Unhealthy int `json:"unhealthy"`
	NotReady  int `json:"notReady"`
	New       int `json:"new"`
	Healthy   int `json:"healthy"`
}

// ConsoleRack is a rack as a console (or a gateway standing in for one) lists it.
type ConsoleRack struct {
	Deletable    bool              `json:"deletable,omitempty"`
	Name         string            `json:"name"`
	Organization Organization      `json:"organization"`
	Parameters   map[string]string `json:"parameters,omitempty"`
	Provider     string            `json:"provider"`
	Status       string            `json:"status"`
	State        []byte            `json:"state,omitempty"`
	Version      string            `json:"version,omitempty"`
}

// Organization owns racks in a console.
type Organization struct {
	Name string `json:"name"`
}
