/*
 * Sherry: language models of 1.25 bits per weight. This is the whole interface for C; docs/c.md has a program.
 *
 * Handles are opaque, lengths explicit; texts are UTF-8 and need no zero at their end. A pointer beside a number points to as
 * many values, or may be NULL where the number is 0. Every function returns at once with SHERRY_INVALID for a handle that is
 * NULL, except for those that free, which do nothing. No function writes to a stream, handles signals or calls back; a fault
 * of the library's own comes back as SHERRY_PANIC.
 *
 * Models never change and may be used by many threads at once. A session belongs to one thread at a time: a second one gets
 * SHERRY_INVALID; only sherry_cancel may come from anywhere.
 *
 * Structures begin with their size, which is set by whoever declares them: the INIT macros do. So later versions can add
 * fields.
 */
#ifndef SHERRY_H
#define SHERRY_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(SHERRY_SHARED)
#define SHERRY_API __declspec(dllimport)
#else
#define SHERRY_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sherry_model sherry_model;     /* weights and tokenizer */
typedef struct sherry_loading sherry_loading; /* a model on its way into memory */
typedef struct sherry_session sherry_session; /* a context: keys and values, and what is generated in it */

typedef enum sherry_status {
    SHERRY_OK = 0,
    SHERRY_INVALID = 1, /* a request that cannot be met as it is */
    SHERRY_IO = 2,      /* the system refused a file */
    SHERRY_MODEL = 3,   /* a file is damaged, or of a kind that is not supported */
    SHERRY_MEMORY = 4,  /* there is not enough */
    SHERRY_CONTEXT = 5, /* a prompt longer than the context */
    SHERRY_PANIC = 6,   /* a fault of the library's own */
    SHERRY_SPACE = 7    /* the caller's room is too small; the count says how much is needed */
} sherry_status;

/* ---- The library -------------------------------------------------------------------------------------------------- */

/* 0x00MMmmpp: major, minor and patch version. */
SHERRY_API uint32_t sherry_version(void);

/* What went wrong last in this thread, with a zero at the end; empty if nothing has. `len` may be NULL. Valid until the
 * thread's next call that fails. */
SHERRY_API const char *sherry_last_error(size_t *len);

/* ---- Models ------------------------------------------------------------------------------------------------------- */

typedef enum sherry_precision {
    SHERRY_PRECISION_INT8 = 0, /* activations in 8 bits: the fast way */
    SHERRY_PRECISION_F32 = 1   /* slow, for comparison with references */
} sherry_precision;

typedef enum sherry_kv { SHERRY_KV_F16 = 0, SHERRY_KV_F32 = 1, SHERRY_KV_Q8 = 2, SHERRY_KV_Q4 = 3 } sherry_kv;

/* How a model is loaded; zeros are the defaults, and so is NULL. */
typedef struct sherry_options {
    uint32_t size;
    uint32_t threads;        /* of each session; 0 for the physical cores that the process may use */
    uint32_t precision;      /* sherry_precision */
    uint32_t kv;             /* sherry_kv: what keys and values are stored as */
    uint32_t two_stage_head; /* not 0: a coarse copy of the head makes greedy decoding faster; a token in 10^9 differs */
    uint32_t no_mmap;        /* not 0: files are read instead of mapped */
    uint32_t scalar;         /* not 0: the plain kernels that all others are compared with */
} sherry_options;
#define SHERRY_OPTIONS_INIT {sizeof(sherry_options), 0, 0, 0, 0, 0, 0}

/* Opens a GGUF file, or a folder with config.json. */
SHERRY_API sherry_status sherry_model_open(const char *path, size_t len, const sherry_options *options, sherry_model **out);

/* Opens the small model inside the library. SHERRY_INVALID where it was built without one. */
SHERRY_API sherry_status sherry_model_builtin(const sherry_options *options, sherry_model **out);

/* One file of a model that is no path: under the name it would have in a folder (config.json, tokenizer.json,
 * model.safetensors ...), or a GGUF file under any name. Its contents are copied; where `data` is NULL, sherry_load_next
 * asks for those ranges of its `len` bytes that are needed, one after the other. */
typedef struct sherry_part {
    uint32_t size; /* of this structure */
    const char *name;
    size_t name_len;
    const void *data;
    size_t len;
} sherry_part;
#define SHERRY_PART_INIT {sizeof(sherry_part), NULL, 0, NULL, 0}

/* A range of a part that is wanted. */
typedef struct sherry_request {
    uint32_t size;   /* of this structure */
    uint32_t part;   /* place among the parts, from 0 */
    uint64_t offset; /* where the range begins in it */
    void *data;      /* where it belongs; the library's memory, valid until the next call */
    size_t len;      /* bytes */
    uint64_t done;   /* bytes of all parts that were brought so far */
    uint64_t total;  /* bytes of all parts that are asked for */
} sherry_request;
#define SHERRY_REQUEST_INIT {sizeof(sherry_request), 0, 0, NULL, 0, 0, 0}

SHERRY_API sherry_status sherry_load_begin(const sherry_part *parts, size_t count, const sherry_options *options,
                                           sherry_loading **out);

/* 1: bring the bytes of `request` to its `data`, then call again. 0: the model is complete. Less: -sherry_status. */
SHERRY_API int32_t sherry_load_next(sherry_loading *loading, sherry_request *request);

/* Ends loading and frees its handle, in any case. `out` gets the model if it is complete; NULL gives everything up. */
SHERRY_API sherry_status sherry_load_end(sherry_loading *loading, sherry_model **out);

/* Sessions of a model that is freed live on. */
SHERRY_API void sherry_model_free(sherry_model *model);

typedef struct sherry_model_info {
    uint32_t size;           /* of this structure */
    uint32_t can_chat;       /* not 0: sherry_apply_template makes prompts of conversations */
    uint32_t vocab;          /* logits per token */
    uint32_t layers;
    uint32_t hidden;
    uint32_t context;        /* most tokens that the model was made for */
    uint64_t parameters;
    uint64_t bytes;          /* of the weights in memory */
    const char *description; /* for people; without a zero at the end, valid as long as the model */
    size_t description_len;
} sherry_model_info;
#define SHERRY_MODEL_INFO_INIT {sizeof(sherry_model_info), 0, 0, 0, 0, 0, 0, 0, NULL, 0}

SHERRY_API sherry_status sherry_model_describe(const sherry_model *model, sherry_model_info *out);

/* ---- Text --------------------------------------------------------------------------------------------------------- */

#define SHERRY_ADD_SPECIAL 1u   /* with the tokens that the model wants around a text */
#define SHERRY_PARSE_SPECIAL 2u /* control tokens in a text are tokens, and are written out when tokens become text */

/* All of the following write nothing when `capacity` values are too few, say how many are needed in `count`, which may be
 * NULL, and return SHERRY_SPACE. */

SHERRY_API sherry_status sherry_tokenize(const sherry_model *model, const char *text, size_t len, uint32_t flags,
                                         uint32_t *tokens, size_t capacity, size_t *count);

SHERRY_API sherry_status sherry_detokenize(const sherry_model *model, const uint32_t *tokens, size_t len, uint32_t flags,
                                           char *text, size_t capacity, size_t *count);

/* The prompt of a conversation, which is JSON: an array of messages ({"role": "user", "content": "Hi"}), or an object with
 * messages, tools, documents, add_generation_prompt (true), continue_final_message (false) and variables, as transformers'
 * apply_chat_template has them. Control tokens inside messages stay text. */
SHERRY_API sherry_status sherry_apply_template(const sherry_model *model, const char *json, size_t len, uint32_t *tokens,
                                               size_t capacity, size_t *count);

/* ---- Sessions ----------------------------------------------------------------------------------------------------- */

/* `context`: most tokens of prompt and text together; 0 for the model's own, at most 4096. */
SHERRY_API sherry_status sherry_session_new(const sherry_model *model, size_t context, sherry_session **out);

SHERRY_API void sherry_session_free(sherry_session *session);

typedef struct sherry_text {
    const char *data;
    size_t len;
} sherry_text;

/* How tokens are picked. What is below 0 is as the model's authors recommend; so is everything where NULL is given. */
typedef struct sherry_sampling {
    uint32_t size;             /* of this structure */
    float temperature;         /* 0 takes the most likely token */
    float top_p;               /* 1 is off */
    float min_p;               /* 0 is off */
    int32_t top_k;             /* 0 is off */
    float repetition_penalty;  /* 1 is off */
    int32_t repetition_window; /* tokens that it looks back */
    float presence_penalty;    /* -2 to 2, 0 is off */
    float frequency_penalty;   /* -2 to 2, 0 is off */
    int32_t max_tokens;        /* below 0 until the model ends the text or the context is full */
    uint64_t seed;             /* same seed, same text */
    const sherry_text *stop;   /* texts that end the answer and are no part of it */
    size_t stop_count;
} sherry_sampling;
#define SHERRY_SAMPLING_INIT \
    {sizeof(sherry_sampling), -1.0f, -1.0f, -1.0f, -1, -1.0f, -1, 0.0f, 0.0f, -1, 0, NULL, 0}

/* Begins to generate what comes after `tokens`; what they have in common with earlier ones is not computed again. Breaks off
 * what the session was generating. Nothing is computed before sherry_next. */
SHERRY_API sherry_status sherry_start(sherry_session *session, const uint32_t *tokens, size_t count,
                                      const sherry_sampling *sampling);

typedef enum sherry_event_kind {
    SHERRY_EVENT_PROMPT = 1, /* `done` of `total` prompt tokens are read, `cached` of them before; at most 128 a call */
    SHERRY_EVENT_TOKEN = 2,  /* `token`, and the text that can be shown now: whole characters, often none */
    SHERRY_EVENT_END = 3     /* `finish`, and the rest of the text */
} sherry_event_kind;

typedef enum sherry_finish {
    SHERRY_FINISH_STOP = 1,     /* the model ended its text, or a stop text came */
    SHERRY_FINISH_LENGTH = 2,   /* max_tokens */
    SHERRY_FINISH_CONTEXT = 3,  /* the context is full */
    SHERRY_FINISH_CANCELLED = 4 /* sherry_cancel */
} sherry_finish;

typedef struct sherry_event {
    uint32_t size; /* of this structure */
    uint32_t kind; /* sherry_event_kind */
    uint32_t token;
    uint32_t finish; /* sherry_finish */
    uint32_t done;
    uint32_t total;
    uint32_t cached;
    const char *text; /* without a zero at the end; valid until the session's next call */
    size_t text_len;
} sherry_event;
#define SHERRY_EVENT_INIT {sizeof(sherry_event), 0, 0, 0, 0, 0, 0, NULL, 0}

/* 1: there is an event. 0: the last one was the end. Less: -sherry_status, and nothing follows. */
SHERRY_API int32_t sherry_next(sherry_session *session, sherry_event *event);

/* The next sherry_next of what is being generated ends it. From any thread, as long as the session is not freed. */
SHERRY_API void sherry_cancel(sherry_session *session);

/* The logits of the token that comes after `tokens`: `vocab` values. What is being generated goes on afterwards. */
SHERRY_API sherry_status sherry_logits(sherry_session *session, const uint32_t *tokens, size_t count, float *out,
                                       size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
