// What can go wrong, under names that programs can ask for.

/// An error of this package. `code` is one of "invalid" (a request that cannot be met as it is), "model" (a file is damaged, or of a
/// kind that is not supported), "network", "memory", "context" (a prompt longer than the context), "crashed" and "closed".
export class SherryError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = "SherryError";
    this.code = code;
  }
}

/// What `fetch` says when it is aborted.
export const aborted = (reason) => reason ?? new DOMException("The operation was aborted.", "AbortError");
