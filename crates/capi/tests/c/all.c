/* Everything in sherry.h, from C and from C++. all BUILTIN-OR-FOLDER: chats with the model, then tries what callers get wrong. */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sherry.h"

#undef NDEBUG
#define OK(call) check((call), #call, __LINE__)

static void check(sherry_status status, const char *call, int line) {
    if (status == SHERRY_OK) return;
    fprintf(stderr, "line %d: %s: %d: %s\n", line, call, (int)status, sherry_last_error(NULL));
    exit(1);
}

static void require(int condition, const char *what, int line) {
    if (condition) return;
    fprintf(stderr, "line %d: not so: %s (%s)\n", line, what, sherry_last_error(NULL));
    exit(1);
}
#define REQUIRE(condition) require((condition) != 0, #condition, __LINE__)

/* The text of one generation, as one string that the caller frees. */
static char *run(sherry_session *session, const uint32_t *tokens, size_t count, const sherry_sampling *sampling,
                 uint32_t *finish, uint32_t *picked, size_t *generated) {
    sherry_event event = SHERRY_EVENT_INIT;
    char *text = (char *)calloc(1, 1);
    size_t len = 0;
    int32_t more;
    if (generated) *generated = 0;
    OK(sherry_start(session, tokens, count, sampling));
    while ((more = sherry_next(session, &event)) > 0) {
        REQUIRE(event.size == sizeof event);
        if (event.kind == SHERRY_EVENT_PROMPT) REQUIRE(event.done <= event.total && event.total == count);
        if (event.kind == SHERRY_EVENT_TOKEN && generated) {
            if (picked) picked[*generated] = event.token;
            ++*generated;
        }
        if (event.text_len) {
            text = (char *)realloc(text, len + event.text_len + 1);
            memcpy(text + len, event.text, event.text_len);
            len += event.text_len;
            text[len] = 0;
        }
        if (event.kind == SHERRY_EVENT_END && finish) *finish = event.finish;
    }
    REQUIRE(more == 0 && sherry_next(session, &event) == 0);
    return text;
}

static size_t prompt_of(const sherry_model *model, const char *json, uint32_t *tokens, size_t capacity) {
    size_t count = 0;
    OK(sherry_apply_template(model, json, strlen(json), tokens, capacity, &count));
    return count;
}

static void chat(const sherry_model *model) {
    static const char question[] = "[{\"role\": \"user\", \"content\": \"Tell me a story about a cat.\"}]";
    sherry_sampling greedy = SHERRY_SAMPLING_INIT;
    sherry_session *session = NULL;
    uint32_t tokens[512], finish = 0, picked[64];
    size_t generated = 0, count = prompt_of(model, question, tokens, 512), needed = 0;
    char *text, *again, written[1024];
    sherry_text stop;

    REQUIRE(count > 5);
    greedy.temperature = 0.0f;
    greedy.max_tokens = 24;
    OK(sherry_session_new(model, 0, &session));
    text = run(session, tokens, count, &greedy, &finish, picked, &generated);
    printf("%s\n", text);
    REQUIRE(strlen(text) > 10 && generated > 5);
    REQUIRE(finish == SHERRY_FINISH_LENGTH || finish == SHERRY_FINISH_STOP);

    /* The same again, out of the cache, and what the tokens say. */
    again = run(session, tokens, count, &greedy, NULL, NULL, NULL);
    REQUIRE(strcmp(text, again) == 0);
    free(again);
    if (finish == SHERRY_FINISH_LENGTH) {
        OK(sherry_detokenize(model, picked, generated, 0, written, sizeof written, &needed));
        REQUIRE(needed == strlen(text) && memcmp(text, written, needed) == 0);
    }

    /* A text that ends it: a part of what was said, which is not said then. */
    stop.data = text + strlen(text) / 2;
    stop.len = 3;
    greedy.stop = &stop;
    greedy.stop_count = 1;
    again = run(session, tokens, count, &greedy, &finish, NULL, NULL);
    REQUIRE(finish == SHERRY_FINISH_STOP && strncmp(text, again, strlen(again)) == 0);
    REQUIRE(strlen(again) <= strlen(text) / 2);
    free(again);
    free(text);
    sherry_session_free(session);
}

static void *cancel(void *session) {
    sherry_cancel((sherry_session *)session);
    return NULL;
}

/* Breaks off before, in and after a prompt, and from another thread in a text. */
static void cancelling(const sherry_model *model) {
    sherry_event event = SHERRY_EVENT_INIT;
    sherry_sampling sampling = SHERRY_SAMPLING_INIT;
    sherry_session *session = NULL;
    uint32_t tokens[400];
    size_t i, count = 0;
    int32_t more;
    pthread_t other;

    for (i = 0; i < 400; i++) tokens[i] = 300 + (uint32_t)(i * 7 % 100);
    OK(sherry_session_new(model, 512, &session));
    sherry_cancel(session); /* nothing runs: nothing is broken off */
    OK(sherry_start(session, tokens, 400, &sampling));
    REQUIRE(sherry_next(session, &event) == 1 && event.kind == SHERRY_EVENT_PROMPT && event.done <= 128);
    sherry_cancel(session);
    REQUIRE(sherry_next(session, &event) == 1 && event.kind == SHERRY_EVENT_END);
    REQUIRE(event.finish == SHERRY_FINISH_CANCELLED && sherry_next(session, &event) == 0);

    sampling.max_tokens = 100;
    OK(sherry_start(session, tokens, 20, &sampling));
    while ((more = sherry_next(session, &event)) > 0 && event.kind != SHERRY_EVENT_END) {
        if (event.kind == SHERRY_EVENT_TOKEN && count++ == 0) {
            REQUIRE(pthread_create(&other, NULL, cancel, session) == 0);
            REQUIRE(pthread_join(other, NULL) == 0);
        }
    }
    REQUIRE(more == 1 && count == 1 && event.finish == SHERRY_FINISH_CANCELLED);
    /* A new text instead of one that runs. */
    OK(sherry_start(session, tokens, 20, &sampling));
    REQUIRE(sherry_next(session, &event) == 1);
    OK(sherry_start(session, tokens + 1, 20, &sampling));
    REQUIRE(sherry_next(session, &event) == 1);
    /* A session that goes away in the middle of one. */
    sherry_session_free(session);
}

static void logits(const sherry_model *model) {
    sherry_model_info info = SHERRY_MODEL_INFO_INIT;
    sherry_session *session = NULL;
    sherry_sampling greedy = SHERRY_SAMPLING_INIT;
    uint32_t tokens[32], picked[1];
    size_t count = 0, i, best = 0, generated = 0;
    float *values;
    OK(sherry_model_describe(model, &info));
    REQUIRE(info.vocab > 0 && info.parameters > 0 && info.bytes > 0 && info.description_len > 0 && info.can_chat);
    values = (float *)malloc(info.vocab * sizeof *values);
    OK(sherry_tokenize(model, "Once upon a time", 16, SHERRY_ADD_SPECIAL, tokens, 32, &count));
    OK(sherry_session_new(model, 256, &session));
    OK(sherry_logits(session, tokens, count, values, info.vocab));
    for (i = 1; i < info.vocab; i++)
        if (values[i] > values[best]) best = i;
    greedy.temperature = 0.0f;
    greedy.max_tokens = 1;
    free(run(session, tokens, count, &greedy, NULL, picked, &generated));
    REQUIRE(generated == 1 && picked[0] == best);
    REQUIRE(sherry_logits(session, tokens, count, values, info.vocab - 1) == SHERRY_SPACE);
    REQUIRE(sherry_logits(session, NULL, 0, values, info.vocab) == SHERRY_INVALID);
    REQUIRE(sherry_logits(session, tokens, count, NULL, info.vocab) == SHERRY_INVALID);
    free(values);
    sherry_session_free(session);
}

/* Loads a file by ranges, as many bytes of it as there are. */
static sherry_status pulled(FILE *file, size_t len, sherry_model **out) {
    sherry_part part = SHERRY_PART_INIT;
    sherry_request request = SHERRY_REQUEST_INIT;
    sherry_loading *loading = NULL;
    int32_t more;
    part.name = "model.gguf";
    part.name_len = 10;
    part.len = len;
    OK(sherry_load_begin(&part, 1, NULL, &loading));
    while ((more = sherry_load_next(loading, &request)) > 0) {
        REQUIRE(request.part == 0 && request.offset + request.len <= len && request.total == len);
        REQUIRE(fseek(file, (long)request.offset, SEEK_SET) == 0);
        REQUIRE(fread(request.data, 1, request.len, file) == request.len);
    }
    if (more < 0) {
        OK(sherry_load_end(loading, NULL));
        return (sherry_status)-more;
    }
    return sherry_load_end(loading, out);
}

static void loading(const char *path) {
    sherry_model *model = NULL, *whole = NULL;
    sherry_part part = SHERRY_PART_INIT;
    sherry_request request = SHERRY_REQUEST_INIT;
    sherry_loading *handle = NULL;
    sherry_sampling greedy = SHERRY_SAMPLING_INIT;
    sherry_session *one = NULL, *two = NULL;
    uint32_t tokens[3] = {400, 500, 600};
    size_t len, cut;
    char *bytes, *a, *b;
    FILE *file = fopen(path, "rb");
    REQUIRE(file != NULL && fseek(file, 0, SEEK_END) == 0);
    len = (size_t)ftell(file);
    OK(pulled(file, len, &model));
    for (cut = 0; cut < 10; cut++) REQUIRE(pulled(file, len * cut / 10, &whole) == SHERRY_MODEL && whole == NULL);

    /* The same out of memory: nothing is asked for. */
    bytes = (char *)malloc(len);
    REQUIRE(fseek(file, 0, SEEK_SET) == 0 && fread(bytes, 1, len, file) == len);
    part.name = "x";
    part.name_len = 1;
    part.data = bytes;
    part.len = len;
    OK(sherry_load_begin(&part, 1, NULL, &handle));
    free(bytes);
    REQUIRE(sherry_load_next(handle, &request) == 0);
    OK(sherry_load_end(handle, &whole));
    fclose(file);

    greedy.temperature = 0.0f;
    greedy.max_tokens = 8;
    OK(sherry_session_new(model, 256, &one));
    OK(sherry_session_new(whole, 256, &two));
    sherry_model_free(model); /* sessions live on */
    sherry_model_free(whole);
    a = run(one, tokens, 3, &greedy, NULL, NULL, NULL);
    b = run(two, tokens, 3, &greedy, NULL, NULL, NULL);
    REQUIRE(strcmp(a, b) == 0);
    free(a);
    free(b);
    sherry_session_free(one);
    sherry_session_free(two);
}

/* Every function with nothing, and with what is wrong. */
static void wrong(const sherry_model *model) {
    sherry_model *none = NULL;
    sherry_session *session = NULL, *nothing = NULL;
    sherry_loading *unfinished = NULL;
    sherry_options options = SHERRY_OPTIONS_INIT;
    sherry_sampling sampling = SHERRY_SAMPLING_INIT;
    sherry_event event = SHERRY_EVENT_INIT;
    sherry_model_info info = SHERRY_MODEL_INFO_INIT;
    sherry_request request = SHERRY_REQUEST_INIT;
    sherry_part part = SHERRY_PART_INIT;
    uint32_t token = 1, far = 0xFFFFFFFFu;
    size_t count = 0, len = 99;
    char text[8];
    float value;

    REQUIRE(sherry_version() > 0 && sherry_last_error(&len) != NULL && len == strlen(sherry_last_error(NULL)));

    REQUIRE(sherry_model_open(NULL, 0, NULL, NULL) == SHERRY_INVALID);
    REQUIRE(sherry_model_open(NULL, 5, NULL, &none) == SHERRY_INVALID && none == NULL);
    REQUIRE(sherry_model_open("", 0, NULL, &none) == SHERRY_IO);
    REQUIRE(sherry_model_open("no such file", 12, NULL, &none) == SHERRY_IO);
    REQUIRE(strstr(sherry_last_error(&len), "no such file") != NULL && len == strlen(sherry_last_error(NULL)));
    REQUIRE(sherry_model_open("\xff\xfe", 2, NULL, &none) == SHERRY_INVALID);
    REQUIRE(sherry_model_builtin(NULL, NULL) == SHERRY_INVALID);
    options.size = 4;
    REQUIRE(sherry_model_builtin(&options, &none) == SHERRY_INVALID && strstr(sherry_last_error(NULL), "sizeof"));
    options.size = sizeof options;
    options.precision = 9;
    REQUIRE(sherry_model_builtin(&options, &none) == SHERRY_INVALID && strstr(sherry_last_error(NULL), "precision"));
    options.precision = 0;
    options.kv = 9;
    REQUIRE(sherry_model_builtin(&options, &none) == SHERRY_INVALID && none == NULL);
    sherry_model_free(NULL);
    sherry_session_free(NULL);
    sherry_cancel(NULL);
    REQUIRE(sherry_model_describe(NULL, &info) == SHERRY_INVALID);
    REQUIRE(sherry_model_describe(model, NULL) == SHERRY_INVALID);
    info.size = 0;
    REQUIRE(sherry_model_describe(model, &info) == SHERRY_INVALID);

    REQUIRE(sherry_load_begin(NULL, 0, NULL, &unfinished) == SHERRY_INVALID);
    REQUIRE(sherry_load_begin(NULL, 1, NULL, &unfinished) == SHERRY_INVALID);
    REQUIRE(sherry_load_begin(&part, 1, NULL, NULL) == SHERRY_INVALID);
    REQUIRE(sherry_load_begin(&part, 1, NULL, &unfinished) == SHERRY_INVALID && unfinished == NULL);
    part.name = "empty";
    part.name_len = 5;
    OK(sherry_load_begin(&part, 1, NULL, &unfinished));
    REQUIRE(sherry_load_next(unfinished, &request) == -SHERRY_MODEL);
    REQUIRE(sherry_load_end(unfinished, &none) == SHERRY_INVALID && none == NULL);
    part.len = 100;
    OK(sherry_load_begin(&part, 1, NULL, &unfinished));
    REQUIRE(sherry_load_next(unfinished, NULL) == -SHERRY_INVALID);
    OK(sherry_load_end(unfinished, NULL));
    REQUIRE(sherry_load_next(NULL, &request) == -SHERRY_INVALID);
    REQUIRE(sherry_load_end(NULL, &none) == SHERRY_INVALID);
    OK(sherry_load_end(NULL, NULL));

    REQUIRE(sherry_tokenize(NULL, "a", 1, 0, &token, 1, &count) == SHERRY_INVALID);
    REQUIRE(sherry_tokenize(model, NULL, 1, 0, &token, 1, &count) == SHERRY_INVALID);
    OK(sherry_tokenize(model, NULL, 0, 0, NULL, 0, &count));
    REQUIRE(count == 0);
    REQUIRE(sherry_tokenize(model, "hello there", 11, 0, NULL, 0, &count) == SHERRY_SPACE && count > 0);
    REQUIRE(sherry_tokenize(model, "hello there", 11, 0, NULL, 99, NULL) == SHERRY_INVALID);
    REQUIRE(sherry_tokenize(model, "hello", 5, 64, &token, 1, &count) == SHERRY_INVALID);
    REQUIRE(sherry_tokenize(model, "\xc3", 1, 0, &token, 1, &count) == SHERRY_INVALID);
    REQUIRE(sherry_detokenize(NULL, &token, 1, 0, text, 8, &count) == SHERRY_INVALID);
    REQUIRE(sherry_detokenize(model, NULL, 1, 0, text, 8, &count) == SHERRY_INVALID);
    OK(sherry_detokenize(model, NULL, 0, 0, NULL, 0, NULL));
    OK(sherry_detokenize(model, &far, 1, 0, text, 8, &count));
    REQUIRE(count == 0);
    REQUIRE(sherry_apply_template(NULL, "[]", 2, &token, 1, &count) == SHERRY_INVALID);
    REQUIRE(sherry_apply_template(model, NULL, 0, &token, 1, &count) == SHERRY_INVALID);
    REQUIRE(sherry_apply_template(model, "{}", 2, &token, 1, &count) == SHERRY_INVALID);
    REQUIRE(sherry_apply_template(model, "{\"mesages\": []}", 15, &token, 1, &count) == SHERRY_INVALID);
    REQUIRE(strstr(sherry_last_error(NULL), "mesages") != NULL);

    REQUIRE(sherry_session_new(NULL, 0, &session) == SHERRY_INVALID && session == NULL);
    REQUIRE(sherry_session_new(model, 0, NULL) == SHERRY_INVALID);
    REQUIRE(sherry_session_new(model, (size_t)-1, &nothing) == SHERRY_INVALID && nothing == NULL);
    OK(sherry_session_new(model, 16, &session));
    REQUIRE(sherry_next(session, &event) == 0);
    REQUIRE(sherry_next(NULL, &event) == -SHERRY_INVALID);
    REQUIRE(sherry_start(NULL, &token, 1, NULL) == SHERRY_INVALID);
    REQUIRE(sherry_start(session, NULL, 0, NULL) == SHERRY_INVALID);
    REQUIRE(sherry_start(session, NULL, 3, NULL) == SHERRY_INVALID);
    REQUIRE(sherry_start(session, &far, 1, NULL) == SHERRY_INVALID);
    sampling.top_p = 7.0f;
    REQUIRE(sherry_start(session, &token, 1, &sampling) == SHERRY_INVALID && strstr(sherry_last_error(NULL), "top_p"));
    sampling.top_p = -1.0f;
    sampling.stop_count = 1;
    REQUIRE(sherry_start(session, &token, 1, &sampling) == SHERRY_INVALID);
    sampling.size = 3;
    REQUIRE(sherry_start(session, &token, 1, &sampling) == SHERRY_INVALID);
    {
        uint32_t many[17] = {0};
        REQUIRE(sherry_start(session, many, 17, NULL) == SHERRY_CONTEXT);
    }
    OK(sherry_start(session, &token, 1, NULL));
    REQUIRE(sherry_next(session, NULL) == -SHERRY_INVALID);
    event.size = 1;
    REQUIRE(sherry_next(session, &event) == -SHERRY_INVALID);
    REQUIRE(sherry_logits(NULL, &token, 1, &value, 1) == SHERRY_INVALID);
    REQUIRE(sherry_logits(session, &far, 1, &value, 1) == SHERRY_SPACE);
    sherry_session_free(session);
}

int main(int argc, char **argv) {
    sherry_model *model = NULL;
    sherry_options options = SHERRY_OPTIONS_INIT;
    if (argc != 3) return 2;
    options.threads = 2;
    /* all MODEL GGUF: the model to chat with, a path or "builtin", and a GGUF file to load by ranges */
    if (strcmp(argv[1], "builtin") == 0) OK(sherry_model_builtin(&options, &model));
    else OK(sherry_model_open(argv[1], strlen(argv[1]), &options, &model));
    chat(model);
    cancelling(model);
    logits(model);
    wrong(model);
    loading(argv[2]);
    sherry_model_free(model);
    puts("ok");
    return 0;
}
