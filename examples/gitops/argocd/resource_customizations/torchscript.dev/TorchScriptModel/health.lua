-- The order is kstatus's, so that Argo CD, Flux, Helm and `kubectl wait` agree about a model.
local status = obj.status or {}

local function condition(kind)
  for _, found in ipairs(status.conditions or {}) do
    if found.type == kind then
      return found
    end
  end
  return {}
end

local function health(name, message)
  return {status = name, message = message or ""}
end

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "The model is being deleted.")
end
if status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "The operator has not seen this generation of the model yet.")
end

local reconciling = condition("Reconciling")
if reconciling.status == "True" then
  return health("Progressing", reconciling.message)
end

-- An older artifact may still serve: Ready is True then, but what Git asks for has failed.
local stalled = condition("Stalled")
if stalled.status == "True" then
  return health("Degraded", stalled.message)
end
if obj.spec.suspend then
  return health("Suspended", "spec.suspend is set: nothing is exported or rolled out.")
end

local ready = condition("Ready")
if ready.status == "True" then
  return health("Healthy", ready.message)
end
return health("Progressing", ready.message)
