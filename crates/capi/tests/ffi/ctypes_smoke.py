"""Text from the model inside the library through ctypes: ctypes_smoke.py LIBRARY."""
import ctypes, sys

lib = ctypes.CDLL(sys.argv[1])


class Event(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("size", "kind", "token", "finish", "done", "total", "cached")] + [
        ("text", ctypes.c_void_p), ("text_len", ctypes.c_size_t)]


class Sampling(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("temperature", ctypes.c_float), ("top_p", ctypes.c_float), ("min_p", ctypes.c_float),
                ("top_k", ctypes.c_int32), ("repetition_penalty", ctypes.c_float), ("repetition_window", ctypes.c_int32),
                ("presence_penalty", ctypes.c_float), ("frequency_penalty", ctypes.c_float), ("max_tokens", ctypes.c_int32),
                ("seed", ctypes.c_uint64), ("stop", ctypes.c_void_p), ("stop_count", ctypes.c_size_t)]


lib.sherry_last_error.restype = ctypes.c_char_p


def ok(status):
    assert status == 0, (status, lib.sherry_last_error(None))


model, session, count = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t()
ok(lib.sherry_model_builtin(None, ctypes.byref(model)))
tokens, text = (ctypes.c_uint32 * 64)(), "Once upon a time".encode()
ok(lib.sherry_tokenize(model, text, ctypes.c_size_t(len(text)), 1, tokens, ctypes.c_size_t(64), ctypes.byref(count)))
ok(lib.sherry_session_new(model, ctypes.c_size_t(0), ctypes.byref(session)))
sampling = Sampling(ctypes.sizeof(Sampling), 0.0, -1.0, -1.0, -1, -1.0, -1, 0.0, 0.0, 16, 0, None, 0)
ok(lib.sherry_start(session, tokens, count, ctypes.byref(sampling)))
event, out = Event(ctypes.sizeof(Event)), b""
while (more := lib.sherry_next(session, ctypes.byref(event))) > 0:
    out += ctypes.string_at(event.text, event.text_len) if event.text_len else b""
assert more == 0, lib.sherry_last_error(None)
lib.sherry_session_free(session)
lib.sherry_model_free(model)
assert len(out.decode()) > 10, out
print("ok", out.decode())
