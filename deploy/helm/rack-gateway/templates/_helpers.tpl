{{/* Names and labels. */}}
{{- define "rg.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "rg.labels" -}}
app.kubernetes.io/name: rack-gateway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "rg.selector" -}}
app.kubernetes.io/name: rack-gateway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "rg.image" -}}
{{- $image := index .root.Values.image .component -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* What must be set, said all at once. */}}
{{- define "rg.check" -}}
{{- $missing := list -}}
{{- range $name, $value := dict "domain" .Values.domain "rack.host" .Values.rack.host "rack.organization" .Values.rack.organization "rack.alias" .Values.rack.alias "signIn.clientId" .Values.signIn.clientId "signIn.allowedDomain" .Values.signIn.allowedDomain "network.adminCidrs" .Values.network.adminCidrs -}}
{{- if not $value }}{{ $missing = append $missing $name }}{{ end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.network.trustedProxyCidrs) }}{{ $missing = append $missing "network.trustedProxyCidrs" }}{{ end -}}
{{- if .Values.networkPolicies.enabled -}}
{{- if not .Values.networkPolicies.database.cidrs }}{{ $missing = append $missing "networkPolicies.database.cidrs" }}{{ end -}}
{{- if not .Values.networkPolicies.rack.cidrs }}{{ $missing = append $missing "networkPolicies.rack.cidrs" }}{{ end -}}
{{- end -}}
{{- if $missing }}{{ fail (printf "set these values: %s" (join ", " (sortAlpha $missing))) }}{{ end -}}
{{- end -}}

{{/* Variables of a process: plain ones, settings, and a NAME_FILE for each key of its secret. */}}
{{- define "rg.env" -}}
{{- range $name, $value := .plain }}
{{- if ne (toString $value) "" }}
- name: {{ $name }}
  value: {{ toString $value | quote }}
{{- end }}
{{- end }}
{{- range $key, $value := .root.Values.settings }}
- name: RGW_SETTING_{{ upper $key }}
  value: {{ toString $value | quote }}
{{- end }}
{{- range .secret.keys }}
- name: {{ . }}_FILE
  value: /run/secrets/rackgateway/{{ . }}
{{- end }}
{{- end -}}

{{- define "rg.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      {{- range .keys }}
      - { key: {{ . }}, path: {{ . }} }
      {{- end }}
{{- end -}}

{{- define "rg.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "rg.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "rg.spread" -}}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "rg.selector" . | nindent 6 }}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "rg.selector" . | nindent 6 }}
{{- end -}}

{{/* Alive is asked loosely, and only because a process that hangs must go; ready decides about traffic. */}}
{{- define "rg.probes" -}}
startupProbe:
  httpGet: { path: /api/v1/health, port: http }
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /api/v1/health, port: http }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /api/v1/health/ready, port: http }
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 1
{{- end -}}
