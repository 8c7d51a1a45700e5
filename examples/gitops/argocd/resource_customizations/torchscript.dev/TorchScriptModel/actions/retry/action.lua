-- A value that the operator has not seen yet starts what has failed once more.
local os = require("os")
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["torchscript.dev/retry"] = os.date("!%Y-%m-%dT%H:%M:%SZ")
return obj
