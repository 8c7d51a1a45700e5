{{- define "torchscript-operator.testName" -}}
{{- printf "%s-test" (include "torchscript-operator.fullname" . | trunc 34 | trimSuffix "-") }}
{{- end }}

{{- define "torchscript-operator.testNamespace" -}}
{{- default (first (append .Values.watchNamespaces .Release.Namespace)) .Values.test.namespace }}
{{- end }}

{{/* The tiny model. Its artifact is removed with it, where the operator may. */}}
{{- define "torchscript-operator.testModel" -}}
{{- $name := include "torchscript-operator.testName" . }}
{{- $namespace := include "torchscript-operator.testNamespace" . }}
apiVersion: torchscript.dev/v1alpha1
kind: TorchScriptModel
metadata:
  name: {{ $name }}
  namespace: {{ $namespace }}
spec:
  source:
    huggingFace:
      repository: helm-test/tiny
      endpoint: http://{{ $name }}-hub.{{ .Release.Namespace }}.svc:8081
  task: feature-extraction
  inputs:
    shapes:
    - batch: 2
      sequence: 16
  {{- with default (include "torchscript-operator.artifactStore" . | fromYaml) .Values.test.artifact }}
  artifact:
    {{- merge (dict "deletionPolicy" "Delete") . | toYaml | nindent 4 }}
  {{- end }}
  targets:
  - name: cpu
    job:
      resources:
        requests: {cpu: 100m, memory: 512Mi}
        limits: {memory: 2Gi}
  serving:
    resources:
      requests: {cpu: 100m, memory: 256Mi}
      limits: {memory: 1Gi}
{{- end }}
