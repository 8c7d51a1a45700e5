{{/* Egress to DNS. */}}
{{- define "torchscript-operator.dnsEgress" -}}
- ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
  {{- with .Values.networkPolicy.dns }}
  to:
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Egress to a service: a dict with cidrs, peers and ports. Nothing where no peer is left. */}}
{{- define "torchscript-operator.serviceEgress" -}}
{{- if or .cidrs .peers -}}
- ports:
  {{- range .ports }}
  - {protocol: TCP, port: {{ int64 . }}}
  {{- end }}
  to:
  {{- range .cidrs }}
  - ipBlock: {cidr: {{ . | quote }}}
  {{- end }}
  {{- with .peers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Egress to where EKS Pod Identity gives a pod its own identity, and no more than that. */}}
{{- define "torchscript-operator.identityEgress" -}}
- ports:
  - {protocol: TCP, port: 80}
  to:
  - ipBlock: {cidr: 169.254.170.23/32}
  - ipBlock: {cidr: "fd00:ec2::23/128"}
{{- end }}
