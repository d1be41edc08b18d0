{{- define "ternion.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* 50 characters, so that there is room for suffixes in names of 63. */}}
{{- define "ternion.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "ternion.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ternion.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ternion.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ternion.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ternion.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "ternion.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "ternion.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "ternion.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ternion.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* "true" if the chart makes the tenant `default`. */}}
{{- define "ternion.makesTenant" -}}
{{- if not (or .Values.anonymous .Values.tenants.existingSecret) }}true{{ end }}
{{- end }}

{{- define "ternion.tenantsSecret" -}}
{{- default (printf "%s-tenants" (include "ternion.fullname" .)) .Values.tenants.existingSecret }}
{{- end }}

{{- /* The drain timeout in seconds; the schema admits s, m and h. */}}
{{- define "ternion.drainSeconds" -}}
{{- $number := regexFind "^[0-9]+" .Values.drainTimeout | int }}
{{- $factor := get (dict "s" 1 "m" 60 "h" 3600) (regexFind "[smh]$" .Values.drainTimeout) | int }}
{{- mul $number $factor }}
{{- end }}

{{- /* Grace counts from the start of preStop. After the drain the server lets
what was cut off say so (2 s), closes connections (1 s) and sends its last
spans; with less than this it is killed while it does. */}}
{{- define "ternion.gracePeriodSeconds" -}}
{{- $least := add (include "ternion.drainSeconds" . | int) .Values.endpointPropagationSeconds 10 | int }}
{{- $given := .Values.terminationGracePeriodSeconds }}
{{- if kindIs "invalid" $given }}
{{- $least }}
{{- else if lt (int $given) $least }}
{{- fail (printf "terminationGracePeriodSeconds: %d is too short: drainTimeout %s, endpointPropagationSeconds %d and 10 s for the rest take %d" (int $given) .Values.drainTimeout (int .Values.endpointPropagationSeconds) $least) }}
{{- else }}
{{- int $given }}
{{- end }}
{{- end }}

{{- /* Source of a volume: what of existingClaim, hostPath and image is set.
Takes the values and their name. */}}
{{- define "ternion.volumeSource" -}}
{{- $set := list }}
{{- range $source := list "existingClaim" "hostPath" "image" }}
{{- if get $.from $source }}{{ $set = append $set $source }}{{ end }}
{{- end }}
{{- if gt (len $set) 1 }}
{{- fail (printf "%s: only one of %s can be set" $.name (join ", " $set)) }}
{{- end }}
{{- if .from.existingClaim }}
persistentVolumeClaim:
  claimName: {{ .from.existingClaim }}
  readOnly: true
{{- else if .from.hostPath }}
hostPath:
  path: {{ .from.hostPath }}
  type: Directory
{{- else if .from.image }}
image:
  reference: {{ .from.image }}
  pullPolicy: {{ .from.imagePullPolicy }}
{{- end }}
{{- end }}

{{- define "ternion.modelVolume" -}}
{{- $source := include "ternion.volumeSource" (dict "from" .Values.model "name" "model") | trim }}
{{- if and .Values.model.path (not $source) }}
{{- fail "model.path: there is no volume; set model.existingClaim, model.hostPath or model.image" }}
{{- end }}
{{- $source }}
{{- end }}

{{- define "ternion.pluginVolume" -}}
{{- include "ternion.volumeSource" (dict "from" .Values.plugins "name" "plugins") | trim }}
{{- end }}

{{- /* Source of the cache's volume. */}}
{{- define "ternion.cacheVolume" -}}
{{- if and .Values.cache.existingClaim .Values.cache.hostPath }}
{{- fail "cache: only one of existingClaim, hostPath can be set" }}
{{- end }}
{{- if .Values.cache.existingClaim }}
persistentVolumeClaim:
  claimName: {{ .Values.cache.existingClaim }}
{{- else if .Values.cache.hostPath }}
hostPath:
  path: {{ .Values.cache.hostPath }}
  type: Directory
{{- else }}
emptyDir: {}
{{- end }}
{{- end }}

{{- /* The server's configuration file: what the chart decides over config. */}}
{{- define "ternion.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $_ := set $config "listen" "0.0.0.0:50051" }}
{{- $operations := default dict $config.operations }}
{{- $_ := set $operations "listen" "0.0.0.0:9464" }}
{{- $_ := set $config "operations" $operations }}
{{- $_ := set $config "drain_timeout" .Values.drainTimeout }}
{{- if include "ternion.modelVolume" . }}
{{- $_ := set $config "model" (printf "/models/%s" .Values.model.path | trimSuffix "/") }}
{{- end }}
{{- if include "ternion.pluginVolume" . }}
{{- $_ := set $config "plugin_dirs" (list "/opt/ternion/plugins" "/plugins") }}
{{- end }}
{{- /* Below the volume's root: that one is not the server's own. */}}
{{- $_ := set $config "cache_dir" (ternary "/cache/ternion" "off" .Values.cache.enabled) }}
{{- if .Values.anonymous }}
{{- if .Values.tenants.existingSecret }}
{{- fail "anonymous: with tenants.existingSecret every call needs a credential; set one of the two" }}
{{- end }}
{{- $_ := set $config "anonymous" "anywhere" }}
{{- else }}
{{- $_ := set $config "tenants" "/etc/ternion/tenants/tenants.toml" }}
{{- end }}
{{- if .Values.tls.existingSecret }}
{{- $tls := dict "certificate" "/etc/ternion/tls/tls.crt" "key" "/etc/ternion/tls/tls.key" }}
{{- if .Values.tls.clientCASecret }}
{{- $_ := set $tls "client_ca" "/etc/ternion/client-ca/ca.crt" }}
{{- $_ := set $tls "client_auth" .Values.tls.clientAuth }}
{{- end }}
{{- $_ := set $config "tls" $tls }}
{{- else if .Values.tls.clientCASecret }}
{{- fail "tls.clientCASecret: client certificates take TLS; set tls.existingSecret" }}
{{- end }}
{{- toYaml $config }}
{{- end }}
