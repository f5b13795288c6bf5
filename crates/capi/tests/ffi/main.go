// Text from the model inside the library through cgo.
package main

// #include <sherry.h>
// static sherry_sampling greedy(int32_t most) {
//     sherry_sampling sampling = SHERRY_SAMPLING_INIT;
//     sampling.temperature = 0.0f;
//     sampling.max_tokens = most;
//     return sampling;
// }
// static sherry_event event(void) {
//     sherry_event event = SHERRY_EVENT_INIT;
//     return event;
// }
import "C"

import (
	"fmt"
	"unsafe"
)

func ok(status C.sherry_status) {
	if status != C.SHERRY_OK {
		panic(C.GoString(C.sherry_last_error(nil)))
	}
}

func main() {
	var model *C.sherry_model
	var session *C.sherry_session
	var count C.size_t
	var tokens [64]C.uint32_t
	text := []byte("Once upon a time")
	ok(C.sherry_model_builtin(nil, &model))
	ok(C.sherry_tokenize(model, (*C.char)(unsafe.Pointer(&text[0])), C.size_t(len(text)), C.SHERRY_ADD_SPECIAL, &tokens[0], 64, &count))
	ok(C.sherry_session_new(model, 0, &session))
	sampling, event, out := C.greedy(16), C.event(), ""
	ok(C.sherry_start(session, &tokens[0], count, &sampling))
	for C.sherry_next(session, &event) > 0 {
		out += C.GoStringN(event.text, C.int(event.text_len))
	}
	C.sherry_session_free(session)
	C.sherry_model_free(model)
	if len(out) < 10 {
		panic(out)
	}
	fmt.Println("ok", out)
}
