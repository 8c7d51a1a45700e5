-- The newest earlier artifact that passed parity, or that the policy lets serve all the same.
local warned = obj.spec.parity ~= nil and obj.spec.parity.policy == "Warn"
local serving = obj.status.serving.targets[1]
local active = serving.active ~= nil and serving.active.artifact.digest or ""

for _, entry in ipairs(obj.status.targets[1].history) do
  if entry.artifact.digest ~= active and (warned or entry.verdict ~= "Failed") then
    obj.metadata.annotations = obj.metadata.annotations or {}
    obj.metadata.annotations["torchscript.dev/rollback-to"] = entry.artifact.digest
    return obj
  end
end
error("no earlier artifact may serve: see status.targets[0].history")
