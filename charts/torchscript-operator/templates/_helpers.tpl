{{- define "torchscript-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of object names; 52 characters leave room for suffixes. */}}
{{- define "torchscript-operator.fullname" -}}
{{- $name := include "torchscript-operator.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "torchscript-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "torchscript-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of every object. The chart's own win over commonLabels: selectors depend on them. */}}
{{- define "torchscript-operator.labels" -}}
{{- $labels := include "torchscript-operator.selectorLabels" . | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/part-of" "torchscript-operator" }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- toYaml (merge $labels .Values.commonLabels) }}
{{- end }}

{{/*
Reference of an image: (list $image $), where $image has repository, tag and digest. A first part with a dot, a colon or
the name localhost is a registry, as in every container runtime; global.imageRegistry takes its place.
*/}}
{{- define "torchscript-operator.image" -}}
{{- $image := index . 0 }}
{{- $root := index . 1 }}
{{- $repository := $image.repository }}
{{- with (default dict $root.Values.global).imageRegistry }}
{{- $parts := splitList "/" $repository }}
{{- if and (gt (len $parts) 1) (regexMatch "[.:]|^localhost$" (first $parts)) }}
{{- $parts = rest $parts }}
{{- end }}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (join "/" $parts) }}
{{- end }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* Names of pull secrets, those of a parent chart included, as a YAML list under the key `items`. */}}
{{- define "torchscript-operator.pullSecrets" -}}
{{- $names := list }}
{{- range concat .Values.imagePullSecrets (default list (default dict .Values.global).imagePullSecrets) }}
{{- $names = append $names (kindIs "string" . | ternary . (get (kindIs "map" . | ternary . dict) "name")) }}
{{- end }}
{{- dict "items" (uniq $names) | toYaml }}
{{- end }}

{{/* Labels of an object that does not belong to the operator's pods: (list $component $). */}}
{{- define "torchscript-operator.componentLabels" -}}
{{- $labels := include "torchscript-operator.labels" (index . 1) | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/component" (index . 0) }}
{{- toYaml $labels }}
{{- end }}

{{/*
Annotation that leaves an object where it is when the chart is uninstalled: models that stay need what their pods need.
*/}}
{{- define "torchscript-operator.kept" -}}
{{- if .Values.crds.keep }}
helm.sh/resource-policy: keep
{{- end }}
{{- end }}

{{- define "torchscript-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "torchscript-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Name of the worker's account; empty when worker pods are to use the account named default. */}}
{{- define "torchscript-operator.workerServiceAccountName" -}}
{{- if .Values.worker.serviceAccount.create }}
{{- default (printf "%s-worker" (include "torchscript-operator.fullname" .)) .Values.worker.serviceAccount.name }}
{{- else }}
{{- .Values.worker.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Namespaces of the worker's account, as a YAML list under the key `items`, since a template yields text. */}}
{{- define "torchscript-operator.workerNamespaces" -}}
{{- $here := prepend .Values.watchNamespaces .Release.Namespace | uniq }}
{{- dict "items" (default $here .Values.worker.serviceAccount.namespaces) | toYaml }}
{{- end }}

{{/* What the operator may do: exactly what its code does. Discovery, which kopf needs, every account may read anyway. */}}
{{- define "torchscript-operator.rules" -}}
# Patched is the finalizer alone, on models with artifact.deletionPolicy Delete.
- apiGroups: [torchscript.dev]
  resources: [torchscriptmodels]
  verbs: [get, list, watch, patch]
# A status is only ever written by server-side apply.
- apiGroups: [torchscript.dev]
  resources: [torchscriptmodels/status]
  verbs: [patch]
# Asked for by blockOwnerDeletion where OwnerReferencesPermissionEnforcement is on, as on OpenShift.
- apiGroups: [torchscript.dev]
  resources: [torchscriptmodels/finalizers]
  verbs: [update]
# Jobs are immutable: created and deleted, never changed.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Server-side apply of an object that is not there yet needs create beside patch.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# Beside Deployments that are scaled, or that have more than one pod.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Termination messages and why a pod waits.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Events of models are created; those of Jobs are read for why one has no pod.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end }}
