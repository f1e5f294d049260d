{{/* The name in the label app.kubernetes.io/name. */}}
{{- define "clusterdns.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of the objects. */}}
{{- define "clusterdns.fullname" -}}
{{- $name := include "clusterdns.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if or (contains $name .Release.Name) (contains "coredns" .Release.Name) -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "clusterdns.k8sapp" -}}
{{- default .Chart.Name .Values.k8sAppLabelOverride -}}
{{- end -}}

{{- define "clusterdns.deployment" -}}
{{- default (include "clusterdns.fullname" .) .Values.deployment.name -}}
{{- end -}}

{{- define "clusterdns.serviceaccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "clusterdns.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "clusterdns.clusterrole" -}}
{{- default (include "clusterdns.fullname" .) .Values.clusterRole.nameOverride -}}
{{- end -}}

{{/* The labels by which everything selects the Pods. */}}
{{- define "clusterdns.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/name: {{ include "clusterdns.name" . | quote }}
{{- if .Values.isClusterService }}
k8s-app: {{ include "clusterdns.k8sapp" . | quote }}
{{- end }}
{{- end -}}

{{/* The labels of every object. */}}
{{- define "clusterdns.labels" -}}
{{ include "clusterdns.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with .Values.customLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of an object, if it has any: those of customAnnotations, and further ones. Takes {root, more}. */}}
{{- define "clusterdns.annotations" -}}
{{- with merge (dict) (default dict .more) .root.Values.customAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The Corefile. */}}
{{- define "clusterdns.corefile" -}}
{{- range $name, $line := .Values.extraConfig }}
{{ $name }}{{ with $line.parameters }} {{ . }}{{ end }}
{{- end }}
{{- range $server := .Values.servers }}
{{- $port := default 53 $server.port | toString }}
{{- $keys := list }}
{{- range default (list dict) $server.zones }}
{{- $keys = append $keys (printf "%s%s:%s" (default "" .scheme) (default "." .zone) $port) }}
{{- end }}
{{ join " " $keys }} {
{{- range $server.plugins }}
    {{ .name }}{{ if hasKey . "parameters" }} {{ .parameters }}{{ end }}
    {{- with .configBlock }} {
{{ . | trim | indent 8 }}
    }
    {{- end }}
{{- end }}
}
{{- end }}
{{- end -}}

{{/* The ports of the server blocks, as JSON: a list of {name, protocol, port, servicePort, nodePort, hostPort}. */}}
{{- define "clusterdns.ports" -}}
{{- $ports := dict -}}
{{- range $server := .Values.servers -}}
{{- $port := default 53 $server.port | int -}}
{{- range default (list dict) $server.zones -}}
{{- $scheme := default "dns://" .scheme -}}
{{- $protocols := list "UDP" "TCP" -}}
{{- if has $scheme (list "tls://" "https://" "grpc://") -}}{{- $protocols = list "TCP" -}}{{- end -}}
{{- if has $scheme (list "quic://" "https3://") -}}{{- $protocols = list "UDP" -}}{{- end -}}
{{- range $protocols -}}
{{- $one := dict "name" (printf "%s-%d" (lower .) $port) "protocol" . "port" $port "servicePort" (default $port $server.servicePort | int) -}}
{{- with $server.nodePort -}}{{- $_ := set $one "nodePort" (int .) -}}{{- end -}}
{{- with $server.hostPort -}}{{- $_ := set $one "hostPort" (int .) -}}{{- end -}}
{{- $_ := set $ports (printf "%05d-%s" $port .) $one -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $list := list -}}
{{- range keys $ports | sortAlpha -}}{{- $list = append $list (get $ports .) -}}{{- end -}}
{{- toJson $list -}}
{{- end -}}

{{/* The port of a plugin's page, or nothing if no server block has the plugin. Takes {root, plugin, port}: `port` is the
default. A Corefile without *reload* restarts the Pods when it changes, see deployment.yaml. */}}
{{- define "clusterdns.page" -}}
{{- $found := "" -}}
{{- range .root.Values.servers -}}
{{- range .plugins -}}
{{- if and (eq .name $.plugin) (not $found) -}}
{{- $found = $.port -}}
{{- with .parameters }}{{ $found = . | toString | splitList ":" | last }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* The resources of the container without values that are null: `limits.cpu: null` removes a default elsewhere. */}}
{{- define "clusterdns.resources" -}}
{{- $resources := deepCopy (default dict .Values.resources) -}}
{{- range $amounts := $resources -}}
{{- if kindIs "map" $amounts -}}
{{- range $name, $amount := $amounts -}}
{{- if kindIs "invalid" $amount -}}{{- $_ := unset $amounts $name -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* The labels of the autoscaler's objects. */}}
{{- define "clusterdns.autoscalerlabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/name: {{ include "clusterdns.name" . }}-autoscaler
{{- with .Values.customLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
