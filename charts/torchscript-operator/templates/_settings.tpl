{{/*
The operator's settings file: the values in the words of torchscript_operator.controller.settings.Settings. A store, an
account and a class whose values are empty are left out: there, absent and empty are not the same.
*/}}
{{- define "torchscript-operator.settings" -}}
{{- $settings := dict
  "workerImage" (include "torchscript-operator.image" (list .Values.worker.image .))
  "imagePullPolicy" .Values.worker.image.pullPolicy
  "watchNamespaces" .Values.watchNamespaces
  "clusterDomain" .Values.clusterDomain
  "jobHistorySeconds" (int64 .Values.jobHistorySeconds)
  "workers" (int64 .Values.concurrentReconciles)
  "resyncSeconds" (int64 .Values.resyncSeconds)
  "logLevel" .Values.logLevel
}}
{{- $_ := set $settings "imagePullSecrets" (include "torchscript-operator.pullSecrets" . | fromYaml).items }}
{{- $store := include "torchscript-operator.artifactStore" . | fromYaml }}
{{- if $store }}
{{- $_ := set $settings "artifactStore" $store }}
{{- end }}
{{- with .Values.trust }}
{{- $_ := set $settings "trust" . }}
{{- end }}
{{- $account := include "torchscript-operator.workerServiceAccountName" . }}
{{- if $account }}
{{- $namespaces := (include "torchscript-operator.workerNamespaces" . | fromYaml).items }}
{{- $_ := set $settings "workerServiceAccount" (dict "name" $account "namespaces" $namespaces) }}
{{- end }}
{{- with .Values.worker.priorityClassName }}
{{- $_ := set $settings "priorityClassName" . }}
{{- end }}
{{- if include "torchscript-operator.leaderElection" . }}
{{- $terms := dict "enabled" true "name" (include "torchscript-operator.fullname" .) }}
{{- range $field := list "leaseDurationSeconds" "renewDeadlineSeconds" "retrySeconds" }}
{{- $_ := set $terms $field (int64 (index $.Values.leaderElection $field)) }}
{{- end }}
{{- $_ := set $settings "leaderElection" $terms }}
{{- end }}
{{- with .Values.worker.jobPriorityClassName }}
{{- $_ := set $settings "jobPriorityClassName" . }}
{{- end }}
{{- with .Values.huggingFace.endpoint }}
{{- $_ := set $settings "huggingFaceEndpoint" . }}
{{- end }}
{{- with .Values.worker.caBundle.configMap }}
{{- if .name }}
{{- $_ := set $settings "caBundle" (dict "configMap" .name "key" .key) }}
{{- end }}
{{- end }}
{{- with .Values.worker.proxy }}
{{- if or .http .https .secretName }}
{{- $proxy := dict "excluded" (default list .excluded) }}
{{- with .http }}{{ $_ := set $proxy "http" . }}{{ end }}
{{- with .https }}{{ $_ := set $proxy "https" . }}{{ end }}
{{- with .secretName }}{{ $_ := set $proxy "secret" . }}{{ end }}
{{- $_ := set $settings "proxy" $proxy }}
{{- end }}
{{- end }}
{{- $compilers := dict }}
{{- range $name, $given := .Values.compilers }}
{{- $compiler := dict
  "job" (include "torchscript-operator.placement" $given.job | fromYaml)
  "serving" (include "torchscript-operator.placement" $given.serving | fromYaml)
  "activeDeadlineSeconds" (int64 $given.activeDeadlineSeconds)
  "backoffLimit" (int64 $given.backoffLimit)
}}
{{- with $given.image }}
{{- $_ := set $compiler "image" (include "torchscript-operator.image" (list . $)) }}
{{- end }}
{{- with $given.instanceTypes }}
{{- $_ := set $compiler "instanceTypes" . }}
{{- end }}
{{- range $kind := list "compile" "verify" }}
{{- with index $given $kind }}
{{- $_ := set $compiler $kind (include "torchscript-operator.placement" . | fromYaml) }}
{{- end }}
{{- end }}
{{- $_ := set $compilers $name $compiler }}
{{- end }}
{{- $_ := set $settings "compilers" $compilers }}
{{- toYaml $settings }}
{{- end }}

{{/* Whether operators take turns by a Lease: "true", or nothing. */}}
{{- define "torchscript-operator.leaderElection" -}}
{{- if eq (kindOf .Values.leaderElection.enabled) "bool" }}
{{- if .Values.leaderElection.enabled }}true{{ end }}
{{- else if gt (int64 .Values.replicas) 1 }}true{{ end }}
{{- end }}

{{/* The default store, or nothing. */}}
{{- define "torchscript-operator.artifactStore" -}}
{{- $store := dict }}
{{- with .Values.artifactStore }}
{{- if .uri }}
{{- $_ := set $store "uri" .uri }}
{{- with .endpoint }}{{ $_ := set $store "endpoint" . }}{{ end }}
{{- with .region }}{{ $_ := set $store "region" . }}{{ end }}
{{- with .credentialsSecret.name }}{{ $_ := set $store "credentialsSecret" (dict "name" .) }}{{ end }}
{{- else if .persistentVolumeClaim.claimName }}
{{- $claim := dict "claimName" .persistentVolumeClaim.claimName }}
{{- with .persistentVolumeClaim.path }}{{ $_ := set $claim "path" . }}{{ end }}
{{- $_ := set $store "persistentVolumeClaim" $claim }}
{{- end }}
{{- end }}
{{- toYaml $store }}
{{- end }}

{{/* Where pods of one kind run, and with what. */}}
{{- define "torchscript-operator.placement" -}}
{{- $resources := default dict .resources }}
{{- $quantities := dict }}
{{- range $side := list "requests" "limits" }}
{{- $texts := dict }}
{{- range $resource, $amount := default dict (index $resources $side) }}
{{- $_ := set $texts $resource (include "torchscript-operator.quantity" $amount) }}
{{- end }}
{{- $_ := set $quantities $side $texts }}
{{- end }}
{{- dict
  "nodeSelector" (default dict .nodeSelector)
  "tolerations" (default list .tolerations)
  "resources" $quantities
  | toYaml }}
{{- end }}

{{/* A quantity as text: YAML makes a number of `cpu: 0.5`, and of `memory: 4294967296` one that prints as 4.29e+09. */}}
{{- define "torchscript-operator.quantity" -}}
{{- if kindIs "string" . }}
{{- . }}
{{- else if eq (floor .) (float64 .) }}
{{- int64 . }}
{{- else }}
{{- toString . }}
{{- end }}
{{- end }}

{{/* What a schema cannot say in words that help. */}}
{{- define "torchscript-operator.validate" -}}
{{- $store := .Values.artifactStore }}
{{- if and $store.uri $store.persistentVolumeClaim.claimName }}
{{- fail "artifactStore: give uri or persistentVolumeClaim.claimName, not both" }}
{{- end }}
{{- if and (not $store.uri) (or $store.endpoint $store.region $store.credentialsSecret.name) }}
{{- fail "artifactStore: endpoint, region and credentialsSecret.name go with uri, which is empty" }}
{{- end }}
{{- if and $store.persistentVolumeClaim.path (not $store.persistentVolumeClaim.claimName) }}
{{- fail "artifactStore: persistentVolumeClaim.path goes with persistentVolumeClaim.claimName, which is empty" }}
{{- end }}
{{- if contains ".." $store.persistentVolumeClaim.path }}
{{- fail "artifactStore: persistentVolumeClaim.path must not contain '..'" }}
{{- end }}
{{- $worker := include "torchscript-operator.workerServiceAccountName" . }}
{{- if and .Values.worker.serviceAccount.create (eq $worker "default") }}
{{- fail "worker.serviceAccount: every namespace has an account named default already; set create to false to use it" }}
{{- end }}
{{- if and $worker (eq $worker (include "torchscript-operator.serviceAccountName" .)) }}
{{- fail (printf "worker.serviceAccount: worker pods must not share the operator's account %s" $worker) }}
{{- end }}
{{- if and .Values.worker.serviceAccount.namespaces (not $worker) }}
{{- fail "worker.serviceAccount: namespaces goes with create or with a name" }}
{{- end }}
{{- $terms := .Values.leaderElection }}
{{- if and (gt (int64 .Values.replicas) 1) (not (include "torchscript-operator.leaderElection" .)) }}
{{- fail "replicas: more than one operator needs leaderElection.enabled, which is false" }}
{{- end }}
{{- if or (ge (int64 $terms.retrySeconds) (int64 $terms.renewDeadlineSeconds)) (ge (int64 $terms.renewDeadlineSeconds) (int64 $terms.leaseDurationSeconds)) }}
{{- fail "leaderElection: retrySeconds must be less than renewDeadlineSeconds, and that less than leaseDurationSeconds" }}
{{- end }}
{{- $proxy := .Values.worker.proxy }}
{{- if and $proxy.secretName (or $proxy.http $proxy.https) }}
{{- fail "worker.proxy: give secretName or the URLs, not both" }}
{{- end }}
{{- $names := list "TSM_SETTINGS" }}
{{- range .Values.extraEnv }}
{{- if has .name $names }}
{{- fail (printf "extraEnv: %s is set twice, or by the chart itself" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}
