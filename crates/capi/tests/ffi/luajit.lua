-- Text from the model inside the library through LuaJIT's FFI, which reads the declarations of the header itself:
-- luajit.lua LIBRARY HEADER.
local ffi = require("ffi")
local header = assert(io.open(arg[2])):read("*a")
local macros = {}
header = header:gsub("\\\n", " "):gsub("#ifdef __cplusplus.-#endif", "")
header = header:gsub("\n#[^\n]*", ""):gsub("^#[^\n]*", ""):gsub("SHERRY_API", "")
ffi.cdef(header)
local lib = ffi.load(arg[1])
local function ok(status) assert(status == 0, ffi.string(lib.sherry_last_error(nil))) end
local model, session, count = ffi.new("sherry_model*[1]"), ffi.new("sherry_session*[1]"), ffi.new("size_t[1]")
ok(lib.sherry_model_builtin(nil, model))
local tokens = ffi.new("uint32_t[64]")
ok(lib.sherry_tokenize(model[0], "Once upon a time", 16, 1, tokens, 64, count))
ok(lib.sherry_session_new(model[0], 0, session))
local sampling = ffi.new("sherry_sampling", { ffi.sizeof("sherry_sampling"), 0, -1, -1, -1, -1, -1, 0, 0, 16, 0, nil, 0 })
ok(lib.sherry_start(session[0], tokens, count[0], sampling))
local event, out, more = ffi.new("sherry_event", { ffi.sizeof("sherry_event") }), "", 0
repeat
    more = lib.sherry_next(session[0], event)
    if more > 0 and event.text_len > 0 then out = out .. ffi.string(event.text, event.text_len) end
until more <= 0
assert(more == 0, ffi.string(lib.sherry_last_error(nil)))
lib.sherry_session_free(session[0])
lib.sherry_model_free(model[0])
assert(#out > 10)
print("ok " .. out)
