"""Argo CD's Lua: version 5.1 with the few libraries that it opens, and what it makes of a script's answer."""

from __future__ import annotations

import json
from typing import Any, cast

from lupa.lua51 import LuaRuntime, lua_type

Json = dict[str, Any]
SANDBOX = """
local safe = {date = os.date, time = os.time}
getmetatable("").__index = nil
string, math, io, os, debug, coroutine, python = nil, nil, nil, nil, nil, nil, nil
load, loadstring, loadfile, dofile, package = nil, nil, nil, nil, nil
require = function(name) return name == "os" and safe or error("module " .. name .. " not found") end
"""
"""Argo CD opens the base, package and table libraries; `require("os")` gives date and time, and nothing else."""


def _to_lua(runtime: LuaRuntime, value: Any) -> Any:
    if isinstance(value, dict):
        return runtime.table_from({key: _to_lua(runtime, item) for key, item in value.items()})
    if isinstance(value, list):
        return runtime.table_from([_to_lua(runtime, item) for item in value])
    return value


def _from_lua(value: Any) -> Any:
    """An empty table is an empty list, as Argo CD's encoder has it."""
    if lua_type(value) != "table":
        return value
    if len(value) or not list(value):
        return [_from_lua(item) for item in value.values()]
    return {str(key): _from_lua(item) for key, item in value.items()}


def run(script: str, obj: Json) -> Json:
    """What a script returns for an object."""
    runtime = LuaRuntime(unpack_returned_tuples=True, register_eval=False)
    runtime.execute(SANDBOX)
    runtime.globals().obj = _to_lua(runtime, obj)
    return cast("Json", json.loads(json.dumps(_from_lua(runtime.execute(script)))))


def _restored(new: Any, old: Any) -> Any:
    """Lists that were empty objects before are empty objects again, as Argo CD mends them."""
    if isinstance(new, dict) and isinstance(old, dict):
        return {key: _restored(item, old.get(key)) for key, item in new.items()}
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [_restored(*pair) for pair in zip(new, old, strict=True)]
    return old if new == [] and isinstance(old, dict) else new


def act(script: str, obj: Json) -> Json:
    """The object after a resource action has been carried out on it."""
    found = _restored(run(script, obj), obj)
    return cast("Json", found)
