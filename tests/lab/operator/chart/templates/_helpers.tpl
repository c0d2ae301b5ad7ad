{{/* Labels of every object, those of the real chart. */}}
{{- define "gpu-operator.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What the lab cannot do is refused; ignoring it would let a wrong play pass. */}}
{{- define "gpu-operator.refuse" -}}
{{- range $name := list "driver" "toolkit" -}}
{{- if (index $.Values $name).enabled -}}
{{- fail (printf "%s.enabled is true: the lab has no %s container, its hosts own theirs" $name $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "validator" "dcgm" "dcgmExporter" "migManager" "nodeStatusExporter" "gds" "gdrcopy" "sandboxWorkloads" -}}
{{- if (index $.Values $name).enabled -}}
{{- fail (printf "%s.enabled is true: the lab's chart has nothing behind it" $name) -}}
{{- end -}}
{{- end -}}
{{- if .Values.devicePlugin.config.name -}}
{{- fail "devicePlugin.config.name is set: the lab's device plugin knows no sharing" -}}
{{- end -}}
{{- if .Values.cdi.nriPluginEnabled -}}
{{- fail "cdi.nriPluginEnabled is true: the lab's chart has nothing behind it" -}}
{{- end -}}
{{- if not (has .Values.mig.strategy (list "none" "single" "mixed")) -}}
{{- fail (printf "mig.strategy is %q: allowed are none, single and mixed" .Values.mig.strategy) -}}
{{- end -}}
{{- end -}}

{{/* The part that all operand DaemonSets share: everything of the spec but selector and template. */}}
{{- define "gpu-operator.update" -}}
{{- if eq .Values.daemonsets.updateStrategy "RollingUpdate" }}
updateStrategy:
  type: RollingUpdate
  rollingUpdate:
    maxUnavailable: {{ .Values.daemonsets.rollingUpdate.maxUnavailable }}
{{- else }}
updateStrategy:
  type: {{ .Values.daemonsets.updateStrategy }}
{{- end }}
{{- end -}}
