local spec = obj.spec
local status = obj.status or {}
local annotations = obj.metadata.annotations or {}
local suspended = spec.suspend == true
local pin = annotations["torchscript.dev/rollback-to"] or ""

local stalled = false
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Stalled" and condition.status == "True" then
    stalled = true
  end
end

-- The annotation names one artifact, and each target has its own: a click rolls back a model of one target only.
local function has_earlier()
  local targets = status.targets or {}
  local served = status.serving ~= nil and status.serving.targets or {}
  if #targets ~= 1 or #served ~= 1 then
    return false
  end
  local warned = spec.parity ~= nil and spec.parity.policy == "Warn"
  local active = served[1].active ~= nil and served[1].active.artifact.digest or ""
  for _, entry in ipairs(targets[1].history or {}) do
    if entry.artifact.digest ~= active and (warned or entry.verdict ~= "Failed") then
      return true
    end
  end
  return false
end

return {
  ["retry"] = {disabled = suspended or not stalled, iconClass = "fa fa-fw fa-redo"},
  ["suspend"] = {disabled = suspended, iconClass = "fa fa-fw fa-pause"},
  ["resume"] = {disabled = not suspended, iconClass = "fa fa-fw fa-play"},
  ["rollback"] = {
    disabled = suspended or pin ~= "" or not has_earlier(),
    displayName = "Roll back to the artifact before",
    iconClass = "fa fa-fw fa-undo",
  },
  ["undo-rollback"] = {
    disabled = pin == "",
    displayName = "Return to the newest artifact",
    iconClass = "fa fa-fw fa-forward",
  },
}
