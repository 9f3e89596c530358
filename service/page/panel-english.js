// What panels say, in English.

export const sentences = {
  close: "Close", copyKey: "Copy key", copyImage: "Copy image link", openImage: "Open image", copied: "Copied", earlier: "Previous", later: "Next",
  rank: "Rank", metadata: "Metadata", pools: "Pools", none: "none", why: "Why it matched", whyImage: "the picture", whyText: "the words",
  whyKey: "like {key}", less_: "less like", request: "This search as code", times: "Where the time went", explain: "Explain this search",
  copy: "Copy", total: "total", characters: "... {n} more characters", read: "read", decode: "decode", queue: "queue", encode: "encode",
  search: "search", rerank: "rerank",
  keyTitle: "This service asks for a key", keyLabel: "API key", keyUse: "Use this key", keyForget: "Forget the key",
  keyHint: "It is kept until this tab is closed, and is never part of a link.", keyWrong: "A key has no spaces and only characters of ASCII.",
};
