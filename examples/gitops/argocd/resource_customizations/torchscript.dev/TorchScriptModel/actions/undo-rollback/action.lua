-- Empty and not nil: Argo CD keeps the annotations of an object that would be left without any.
obj.metadata.annotations["torchscript.dev/rollback-to"] = ""
return obj
